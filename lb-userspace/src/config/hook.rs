//! `[events]` and `[[hook]]`: how much is kept of what happened, and who is told.

use std::time::Duration;

use super::global::sub_table;
use super::keys;
use super::model::{Events, Hook, HookTarget};
use super::reader::{Node, Table};
use super::scalar::Alphabet;
use super::source::Place;

/// Room for snapshots of some hundred backends and a few thousand events.
const FEWEST_BYTES: u64 = 1 << 20;
const MOST_BYTES: u64 = 1 << 40;
const DEFAULT_BYTES: u64 = 16 << 20;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(300);
const DEFAULT_QUEUE: usize = 256;
const LONGEST_QUEUE: u32 = 65_536;

/// `[events]`, or its defaults.
pub(crate) fn events(top: &Table<'_>) -> Events {
    let table = sub_table(top, "events", keys::EVENTS);
    let max_bytes = table.and_then(|table| table.value("max_bytes")?.integer(FEWEST_BYTES..=MOST_BYTES));
    Events { max_bytes: max_bytes.unwrap_or(DEFAULT_BYTES) }
}

/// All hooks, in the order of the file.
pub(crate) fn read(top: &Table<'_>) -> Vec<Hook> {
    let mut found: Vec<(Hook, Place)> = Vec::new();
    for table in top.value("hook").map(|list| list.tables("hook", keys::HOOK)).unwrap_or_default() {
        let Some(hook) = read_one(&table) else { continue };
        match found.iter().find(|(other, _)| other.name == hook.name) {
            Some((_, first)) => {
                table.error("name", format!("the name is given twice, first at {}", first.brief()));
            }
            None => found.push((hook, table.place.clone())),
        }
    }
    found.into_iter().map(|(hook, _)| hook).collect()
}

fn read_one(table: &Table<'_>) -> Option<Hook> {
    let name = table.required("name", "name = \"…\"").and_then(|node| node.name(Alphabet::Strict));
    let target = match (table.value("exec"), table.value("url")) {
        (Some(exec), None) => command(&exec),
        (None, Some(url)) => address(&url),
        (Some(_), Some(url)) => {
            url.fail("and exec are both given: a hook has one of them");
            None
        }
        (None, None) => {
            table.error(
                "exec",
                "what to tell is missing: add exec = [\"/path/of/command\"], or url = \"http://…\"",
            );
            None
        }
    };
    let kinds = table.value("kinds").map(|list| list.items()).unwrap_or_default();
    let kinds = kinds.iter().filter_map(|node| {
        let kind = node.string("a kind of event")?.parse();
        kind.map_err(|message: String| node.fail(format_args!("{message}"))).ok()
    });
    let kinds = kinds.collect();
    let least = Duration::from_millis(1);
    let timeout = table.value("timeout").and_then(|node| node.duration(least..=LONGEST_TIMEOUT));
    let queue = table.value("queue").and_then(|node| node.integer(1..=LONGEST_QUEUE));
    Some(Hook {
        name: name?,
        target: target?,
        kinds,
        timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
        queue: queue.map_or(DEFAULT_QUEUE, |queue| queue as usize),
    })
}

/// A command: a path, or a list of it and its arguments.
fn command(node: &Node<'_>) -> Option<HookTarget> {
    let words: Vec<String> = node
        .items()
        .iter()
        .map(|item| item.string("a command, as a list of its words").map(str::to_owned))
        .collect::<Option<_>>()?;
    if !words.first().is_some_and(|program| program.starts_with('/')) {
        node.fail("must begin with the full path of a command; it is run without a shell");
        return None;
    }
    Some(HookTarget::Exec(words))
}

/// `http://host[:port][/path]`.
fn address(node: &Node<'_>) -> Option<HookTarget> {
    let text = node.string("a URL such as \"http://127.0.0.1:9000/weir\"")?;
    let parsed = text.parse::<hyper::Uri>().ok();
    let parsed = parsed.as_ref().and_then(|uri| Some((uri, uri.scheme_str()?, uri.host()?)));
    match parsed {
        Some((uri, "http", host)) if !host.is_empty() && port(uri).is_some() => Some(HookTarget::Post {
            host: host.to_owned(),
            port: port(uri)?,
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        }),
        Some((_, "https", _)) => {
            node.fail("has the scheme https, which is not available; use exec with a client such as curl");
            None
        }
        _ => {
            node.fail(format_args!(
                "{text:?} is no URL that can be posted to; write http://HOST[:PORT][/PATH]"
            ));
            None
        }
    }
}

/// The port of an address without a user; `None` for one that is none.
fn port(uri: &hyper::Uri) -> Option<u16> {
    let behind_host = uri.authority()?.as_str().strip_prefix(uri.host()?)?;
    match behind_host.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port != 0),
        None => behind_host.is_empty().then_some(80),
    }
}
