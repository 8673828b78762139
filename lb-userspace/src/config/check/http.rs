//! Keys of `http` and `https` checks.

use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::config::model::{HttpCheck, PhaseLimits, TlsCheck, Trust};
use crate::config::reader::{Node, Table};
use crate::config::scalar::{DAY, show};
use crate::config::source;

/// Reads what is asked for and expected.
pub(super) fn http(table: &Table<'_>) -> HttpCheck {
    let path = token(table, "path", "a path such as \"/healthz\"").and_then(|(node, path)| {
        let rooted = path.starts_with('/');
        if !rooted {
            node.fail(format_args!("{path:?} must begin with /"));
        }
        rooted.then_some(path)
    });
    let expect_body = table.value("expect_body").and_then(|node| {
        let text = node.string("a text")?;
        if text.is_empty() {
            node.fail("must not be empty: leave it out to accept any body");
        }
        Some(text.to_owned())
    });
    let listed = table.value("expect_status").map(|list| list.items());
    let mut expect_status: Vec<_> = listed.into_iter().flatten().flat_map(|node| statuses(&node)).collect();
    expect_status.sort_unstable();
    expect_status.dedup();
    if expect_status.is_empty() {
        expect_status.push((200, 299));
    }
    let phase = |key| table.value(key).and_then(|node| node.duration(Duration::from_millis(1)..=DAY));
    HttpCheck {
        path: path.unwrap_or_else(|| "/".to_owned()),
        host: token(table, "host", "a host name").map(|(_, host)| host),
        expect_status,
        expect_body,
        phases: PhaseLimits {
            connect: phase("connect_timeout"),
            tls: phase("tls_timeout"),
            first_byte: phase("first_byte_timeout"),
        },
    }
}

/// A phase that may take longer than the whole is a mistake.
pub(super) fn compare_phases(table: &Table<'_>, phases: PhaseLimits, timeout: Duration) {
    let PhaseLimits { connect, tls, first_byte } = phases;
    let phases = [("connect_timeout", connect), ("tls_timeout", tls), ("first_byte_timeout", first_byte)];
    for (key, phase) in phases {
        if let (Some(node), Some(phase)) = (table.value(key), phase.filter(|phase| *phase > timeout)) {
            let (phase, timeout) = (show(phase), show(timeout));
            node.fail(format_args!("{phase} is longer than timeout {timeout}, which bounds the whole probe"));
        }
    }
}

/// Reads what is asked of the server's certificate.
pub(super) fn tls(table: &Table<'_>) -> TlsCheck {
    let name = table.value("tls_name").and_then(|node| {
        let name = node.string("a host name")?;
        if ServerName::try_from(name).is_err() {
            node.fail(format_args!("{name:?} is no host name or address that a certificate can bear"));
            return None;
        }
        Some(name.to_owned())
    });
    let insecure = table.value("insecure");
    let anyone = insecure.as_ref().and_then(|node| node.boolean()).unwrap_or(false);
    let file = table.value("ca_file");
    if let (true, Some(node), Some(_)) = (anyone, &insecure, &file) {
        node.fail("believes any certificate, and ca_file says which to believe: leave out one of them");
    }
    let trust = match (anyone, file) {
        (true, _) => Trust::Anyone,
        (false, Some(node)) => certificates(&node).unwrap_or(Trust::System),
        (false, None) => Trust::System,
    };
    TlsCheck { name, trust }
}

/// Reads a file of certificates in PEM.
fn certificates(node: &Node<'_>) -> Option<Trust> {
    let path = node.place.source.sibling(node.string("a path")?);
    let text =
        source::read_text(&path).map_err(|cause| node.fail(format_args!("cannot be used: {cause}"))).ok()?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match read {
        Ok(found) if !found.is_empty() => {
            let certificates = found.iter().map(|certificate| certificate.to_vec()).collect();
            Some(Trust::File { path, certificates })
        }
        Ok(_) => {
            node.fail(format_args!("{} holds no certificate in PEM", path.display()));
            None
        }
        Err(cause) => {
            node.fail(format_args!("{} is not valid PEM: {cause}", path.display()));
            None
        }
    }
}

/// A text without what would end a request line or a header.
fn token<'a>(table: &Table<'a>, key: &'static str, what: &str) -> Option<(Node<'a>, String)> {
    let node = table.value(key)?;
    let text = node.string(what)?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        node.fail(format_args!("{text:?} must be printable ASCII without spaces"));
        return None;
    }
    let text = text.to_owned();
    Some((node, text))
}

/// `200`, `"200-299"`, `"200,204"`.
fn statuses(node: &Node<'_>) -> Vec<(u16, u16)> {
    let text = match (node.as_integer(), node.as_string()) {
        (Some(number), _) => number.to_string(),
        (None, Some(text)) => text.to_owned(),
        (None, None) => String::new(),
    };
    let status = |text: &str| text.trim().parse().ok().filter(|code| (100..=599).contains(code));
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        status(first).zip(status(last)).filter(|(first, last)| first <= last)
    };
    let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
    if ranges.is_none() {
        node.fail(format_args!(
            "{} must be status codes from 100 to 599, such as 200, \"200-299\" or \"200,204\"",
            node.written()
        ));
    }
    ranges.unwrap_or_default()
}
