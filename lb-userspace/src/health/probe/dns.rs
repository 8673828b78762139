//! `dns`: the query, and what its answer says. No sockets.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, TYPE};

use crate::config::model::{DnsCheck, DnsRcode, DnsType};
use crate::health::judge::Failure;

/// What a datagram from the server's port means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// It answers another question, or none.
    NotOurs,
    /// As expected.
    Passed,
    /// Not as expected.
    Failed(Failure),
}

/// The query with that id; `None` for a name that no packet can hold.
pub(super) fn query(check: &DnsCheck, id: u16) -> Option<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    // The root has no label; its text has a dot.
    let name = Name::new(check.query.trim_end_matches('.')).ok()?;
    packet.questions.push(Question::new(name, QTYPE::TYPE(kind(check)), CLASS::IN.into(), false));
    packet.build_bytes_vec().ok()
}

/// Judges a datagram that may answer the query with that id.
pub(super) fn judge(check: &DnsCheck, id: u16, datagram: &[u8]) -> Reply {
    let answers_us = datagram.get(..2) == Some(&id.to_be_bytes()[..]);
    let Ok(packet) = Packet::parse(datagram) else {
        return match answers_us {
            true => Reply::Failed(Failure::Protocol("not DNS".to_owned())),
            false => Reply::NotOurs,
        };
    };
    if !answers_us || !packet.has_flags(PacketFlag::RESPONSE) {
        return Reply::NotOurs;
    }
    let rcode = packet.rcode();
    if rcode != expected(check.expect_rcode) {
        return Reply::Failed(Failure::Reply(rcode_name(rcode)));
    }
    let Some(wanted) = &check.expect_answer else { return Reply::Passed };
    let said: Vec<String> = packet.answers.iter().filter_map(|record| text(check, &record.rdata)).collect();
    match said.iter().any(|said| is(check.query_type, said, wanted)) {
        true => Reply::Passed,
        false if said.is_empty() => Reply::Failed(Failure::Reply("no such record".to_owned())),
        false => Reply::Failed(Failure::Reply(said.join(", "))),
    }
}

/// Whether a record says what is wanted: addresses however they are written, names with or without the last dot.
fn is(kind: DnsType, said: &str, wanted: &str) -> bool {
    match kind {
        DnsType::A | DnsType::Aaaa => wanted.parse::<IpAddr>().is_ok_and(|wanted| said.parse() == Ok(wanted)),
        DnsType::Txt => said.eq_ignore_ascii_case(wanted),
        _ => said.trim_end_matches('.').eq_ignore_ascii_case(wanted.trim_end_matches('.')),
    }
}

/// What a record of the type asked for says, written as in the config; `None` for one of another type.
fn text(check: &DnsCheck, data: &RData<'_>) -> Option<String> {
    let said = match (check.query_type, data) {
        (DnsType::A, RData::A(a)) => Ipv4Addr::from(a.address).to_string(),
        (DnsType::Aaaa, RData::AAAA(aaaa)) => Ipv6Addr::from(aaaa.address).to_string(),
        (DnsType::Cname, RData::CNAME(name)) => name.0.to_string(),
        (DnsType::Ns, RData::NS(name)) => name.0.to_string(),
        (DnsType::Ptr, RData::PTR(name)) => name.0.to_string(),
        (DnsType::Mx, RData::MX(mx)) => mx.exchange.to_string(),
        (DnsType::Soa, RData::SOA(soa)) => soa.mname.to_string(),
        (DnsType::Txt, RData::TXT(txt)) => String::try_from(txt.clone()).ok()?,
        _ => return None,
    };
    Some(said)
}

fn kind(check: &DnsCheck) -> TYPE {
    match check.query_type {
        DnsType::A => TYPE::A,
        DnsType::Aaaa => TYPE::AAAA,
        DnsType::Cname => TYPE::CNAME,
        DnsType::Mx => TYPE::MX,
        DnsType::Ns => TYPE::NS,
        DnsType::Ptr => TYPE::PTR,
        DnsType::Soa => TYPE::SOA,
        DnsType::Txt => TYPE::TXT,
    }
}

fn expected(rcode: DnsRcode) -> RCODE {
    match rcode {
        DnsRcode::NoError => RCODE::NoError,
        DnsRcode::ServFail => RCODE::ServerFailure,
        DnsRcode::NxDomain => RCODE::NameError,
        DnsRcode::Refused => RCODE::Refused,
    }
}

/// A code as operators write it.
fn rcode_name(rcode: RCODE) -> String {
    let known = [DnsRcode::NoError, DnsRcode::ServFail, DnsRcode::NxDomain, DnsRcode::Refused];
    let name = known.into_iter().find(|known| expected(*known) == rcode).map(DnsRcode::name);
    name.map_or_else(|| format!("{rcode:?}"), ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, AAAA, TXT};

    use super::*;

    fn check(query_type: DnsType, expect_answer: Option<&str>) -> DnsCheck {
        DnsCheck {
            query: "health.example".to_owned(),
            query_type,
            expect_rcode: DnsRcode::NoError,
            expect_answer: expect_answer.map(ToOwned::to_owned),
        }
    }

    fn answer(id: u16, rcode: RCODE, data: Vec<RData<'_>>) -> Vec<u8> {
        let mut packet = Packet::new_reply(id);
        packet.set_flags(PacketFlag::RESPONSE);
        *packet.rcode_mut() = rcode;
        let name = Name::new("health.example").expect("a name");
        packet.answers =
            data.into_iter().map(|data| ResourceRecord::new(name.clone(), CLASS::IN, 60, data)).collect();
        packet.build_bytes_vec().expect("a packet")
    }

    fn failed(what: &str) -> Reply {
        Reply::Failed(Failure::Reply(what.to_owned()))
    }

    #[test]
    fn a_query_asks_one_question_and_the_root_is_a_name() {
        let query = query(&check(DnsType::Aaaa, None), 7).expect("a query");
        let packet = Packet::parse(&query).expect("a packet");
        assert_eq!((packet.id(), packet.questions.len()), (7, 1));
        assert_eq!(packet.questions[0].qname.to_string(), "health.example");
        assert_eq!(packet.questions[0].qtype, QTYPE::TYPE(TYPE::AAAA));
        let root = DnsCheck { query: String::new(), ..check(DnsType::Ns, None) };
        assert_eq!(super::query(&root, 7).map(|query| query.len()), Some(12 + 1 + 4));
    }

    #[test]
    fn code_and_answer_decide() {
        let plain = check(DnsType::A, None);
        assert_eq!(judge(&plain, 7, &answer(7, RCODE::NoError, vec![])), Reply::Passed);
        assert_eq!(judge(&plain, 7, &answer(7, RCODE::ServerFailure, vec![])), failed("SERVFAIL"));
        assert_eq!(judge(&plain, 7, &answer(7, RCODE::NotImplemented, vec![])), failed("NotImplemented"));
        let a = |last: u8| RData::A(A { address: u32::from_be_bytes([192, 0, 2, last]) });
        let wanted = check(DnsType::A, Some("192.0.2.2"));
        assert_eq!(judge(&wanted, 7, &answer(7, RCODE::NoError, vec![a(1), a(2)])), Reply::Passed);
        assert_eq!(judge(&wanted, 7, &answer(7, RCODE::NoError, vec![a(1)])), failed("192.0.2.1"));
        assert_eq!(judge(&wanted, 7, &answer(7, RCODE::NoError, vec![])), failed("no such record"));
        let txt = RData::TXT(TXT::new().with_string("Serving").expect("a text"));
        let said = answer(7, RCODE::NoError, vec![txt]);
        assert_eq!(judge(&check(DnsType::Txt, Some("serving")), 7, &said), Reply::Passed);
        let txt = RData::TXT(TXT::new().with_string("Serving.").expect("a text"));
        let dot = answer(7, RCODE::NoError, vec![txt]);
        assert_eq!(judge(&check(DnsType::Txt, Some("Serving.")), 7, &dot), Reply::Passed);
        assert_eq!(judge(&check(DnsType::Txt, Some("Serving")), 7, &dot), failed("Serving."));
        let aaaa = answer(7, RCODE::NoError, vec![RData::AAAA(AAAA { address: 0x2001_0db8 << 96 | 1 })]);
        for written in ["2001:db8::1", "2001:0db8::1", "2001:DB8:0:0:0:0:0:1"] {
            assert_eq!(judge(&check(DnsType::Aaaa, Some(written)), 7, &aaaa), Reply::Passed, "{written}");
        }
    }

    #[test]
    fn what_answers_no_question_of_ours_is_not_judged() {
        let plain = check(DnsType::A, None);
        assert_eq!(judge(&plain, 7, &answer(8, RCODE::NoError, vec![])), Reply::NotOurs);
        assert_eq!(judge(&plain, 7, b""), Reply::NotOurs);
        let echoed = query(&plain, 7).expect("a query");
        assert_eq!(judge(&plain, 7, &echoed), Reply::NotOurs);
        let broken = [0, 7, 0x81, 0x80, 0, 9];
        assert_eq!(judge(&plain, 7, &broken), Reply::Failed(Failure::Protocol("not DNS".to_owned())));
    }
}
