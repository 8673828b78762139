//! `quic_cid` of a service, `server_id` of a backend.

use super::keys;
use super::model::{CidConfig, ServerId};
use super::reader::{Node, Table};
use lb_common::layout::{CID_CONFIGS, SERVER_ID_BYTES, SERVER_IDS};

/// `quic_cid` as read.
pub(crate) enum QuicDraft {
    /// `true`: the one configuration that the backends' server ids suggest.
    Suggested,
    /// Configurations of different numbers.
    Given(Vec<CidConfig>),
}

/// Reads `quic_cid`: a boolean, a configuration, or a list of them. `None` where it is off, or wrong.
pub(crate) fn read(node: &Node<'_>) -> Option<QuicDraft> {
    if !node.is_table() && !node.is_array() {
        return node.boolean()?.then_some(QuicDraft::Suggested);
    }
    let mut configs: Vec<CidConfig> = Vec::new();
    for item in node.items() {
        let table = item.table(format!("{} quic_cid", item.subject), keys::QUIC)?;
        let number = |key, range| {
            table.required(key, &format!("{key} = …")).and_then(|node| node.integer::<u8>(range))
        };
        let config_id = number("config_id", 0..=CID_CONFIGS as u8 - 1);
        let server_id_length = number("server_id_length", 1..=SERVER_ID_BYTES as u8);
        let (config_id, server_id_length) = (config_id?, server_id_length?);
        if configs.iter().any(|config| config.config_id == config_id) {
            item.fail(format_args!("has config_id {config_id} twice: number each configuration otherwise"));
            return None;
        }
        configs.push(CidConfig { config_id, server_id_length });
    }
    if configs.is_empty() {
        node.fail("must hold at least one configuration, or be true or false");
        return None;
    }
    Some(QuicDraft::Given(configs))
}

/// Reads the `server_id` of a backend: one, or a list of different lengths.
pub(crate) fn server_ids(table: &Table<'_>) -> Vec<ServerId> {
    let Some(node) = table.value("server_id") else { return Vec::new() };
    let mut found: Vec<ServerId> = Vec::new();
    for item in node.items() {
        let Some(text) = item.string("1 to 15 bytes in hexadecimal, like \"0a1b\"") else { continue };
        match hex(text).and_then(|bytes| ServerId::new(&bytes)) {
            None => item.fail(format_args!("must be 1 to 15 bytes in hexadecimal, got {}", item.written())),
            Some(id) if found.iter().any(|other| other.len() == id.len()) => {
                item.fail(format_args!(
                    "has two ids of {} bytes: a backend has one of each length",
                    id.len()
                ));
            }
            Some(_) if found.len() == SERVER_IDS => {
                item.fail(format_args!(
                    "has more than {SERVER_IDS} ids: remove those that no connection uses any more"
                ));
            }
            Some(id) => found.push(id),
        }
    }
    found
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let (pairs, rest) = digits.as_deref()?.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
