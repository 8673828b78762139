//! Where data, messages and errors go.

use std::ffi::OsString;
use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;

use super::args::Form;
use crate::failure::{Code, Failure, FailureDocument};
use crate::view::Render;

/// Whether stderr is looked at by somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A terminal: lines may be rewritten.
    Terminal,
    /// A file or pipe: whole lines only.
    Log,
}

/// The two streams of a command.
pub struct Streams<'a> {
    /// Data.
    pub out: &'a mut dyn Write,
    /// Messages, progress, errors.
    pub err: &'a mut dyn Write,
    /// Who reads `err`.
    pub audience: Audience,
}

/// Whether somebody still reads stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    There,
    Gone,
}

/// The streams in the form that was asked for.
pub(super) struct Output<'a, 'b> {
    pub(super) streams: &'a mut Streams<'b>,
    pub(super) form: Form,
}

impl Output<'_, '_> {
    /// Prints a document on stdout.
    pub(super) fn data(&mut self, view: &(impl Serialize + Render)) -> Result<(), Failure> {
        match self.form {
            Form::Table => self.write_out(&view.render(Timestamp::now())),
            Form::Json => self.json(serde_json::to_string_pretty(view)),
            Form::Jsonl => self.line(view),
        }
    }

    /// Prints a document as one line.
    pub(super) fn line(&mut self, view: &impl Serialize) -> Result<(), Failure> {
        self.json(serde_json::to_string(view))
    }

    /// Prints text on stdout.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.write_out(text)
    }

    /// Prints text on stdout for somebody who follows, and tells whether they still do.
    pub(super) fn followed(&mut self, text: &str) -> Result<Reader, Failure> {
        match self.streams.out.write_all(text.as_bytes()).and_then(|()| self.streams.out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
            Err(error) => Err(Failure::new(Code::Failed, format!("write to stdout: {error}"))),
            Ok(()) => Ok(Reader::There),
        }
    }

    /// Tells people something on stderr.
    pub(super) fn message(&mut self, text: &str) {
        // Nobody is left to tell when stderr is closed.
        let _ = writeln!(self.streams.err, "weir: {text}");
    }

    fn json(&mut self, json: serde_json::Result<String>) -> Result<(), Failure> {
        let json = json.map_err(|error| Failure::new(Code::Failed, format!("write json: {error}")))?;
        self.write_out(&format!("{json}\n"))
    }

    fn write_out(&mut self, text: &str) -> Result<(), Failure> {
        // A reader that has seen enough, as in `weir flows | head`, is no failure.
        self.followed(text).map(drop)
    }
}

/// Prints a failure on stderr: a line for people, a document for programs.
pub(super) fn failure(streams: &mut Streams<'_>, form: Form, failure: Failure) {
    let text = match form {
        Form::Table => format!("weir: {failure}"),
        Form::Json | Form::Jsonl => serde_json::to_string(&FailureDocument::from(failure.clone()))
            .unwrap_or_else(|_| failure.to_string()),
    };
    // Nobody is left to tell when stderr is closed; the exit code still does.
    let _ = writeln!(streams.err, "{text}");
}

/// The form that arguments ask for, also where they are wrong otherwise.
pub(super) fn form_of(args: &[OsString]) -> Form {
    let args: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let mut form = Form::Table;
    for (index, arg) in args.iter().enumerate() {
        let value = match *arg {
            "--" => break,
            "-o" | "--output" => args.get(index + 1).copied(),
            _ => arg.strip_prefix("--output=").or_else(|| arg.strip_prefix("-o")),
        };
        match value.map(|value| value.trim_start_matches('=')) {
            Some("json") => form = Form::Json,
            Some("jsonl") => form = Form::Jsonl,
            Some("table") => form = Form::Table,
            _ => {}
        }
    }
    form
}
