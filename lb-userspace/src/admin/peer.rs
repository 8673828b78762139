//! Who calls: the kernel's word for the other end of the socket.

use std::fs;
use std::path::Path;

/// The group whose members operate weir.
pub const GROUP: &str = "weir";

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads and changes.
    Operator,
}

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// User name; the number where /etc/passwd has none.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// The users and groups of the host.
#[derive(Clone, Debug)]
pub struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads /etc/passwd and /etc/group; a missing file is an empty one.
    #[must_use]
    pub fn of_host() -> Self {
        let read = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
        Self { passwd: read("/etc/passwd"), group: read("/etc/group") }
    }

    /// The caller with these credentials; `owner` is the daemon's user id.
    #[must_use]
    pub fn peer(&self, uid: u32, gid: u32, owner: u32) -> Peer {
        let known = self.user_name(uid);
        let of_group = self
            .group(GROUP)
            .is_some_and(|(group, mut members)| group == gid || members.any(|member| known == Some(member)));
        let role = if uid == 0 || uid == owner || of_group { Role::Operator } else { Role::Viewer };
        Peer { uid, name: known.map_or_else(|| uid.to_string(), str::to_owned), role }
    }

    /// The id of group [`GROUP`], if the host has it.
    #[must_use]
    pub fn operators(&self) -> Option<u32> {
        self.group(GROUP).map(|(gid, _)| gid)
    }

    fn user_name(&self, uid: u32) -> Option<&str> {
        self.passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
        })
    }

    fn group(&self, wanted: &str) -> Option<(u32, impl Iterator<Item = &str>)> {
        self.group.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            let members = fields.next().unwrap_or_default().split(',').filter(|member| !member.is_empty());
            (name == wanted).then_some((gid, members))
        })
    }
}

impl Peer {
    /// Whether it could run a command with the rights of `owner`, the daemon's user id, anyway.
    #[must_use]
    pub fn has_rights_of(&self, owner: u32) -> bool {
        self.uid == 0 || self.uid == owner
    }

    /// The user on record: `alice`, or `alice as root` where root says so.
    #[must_use]
    pub fn on_record(&self, on_behalf_of: Option<&str>) -> String {
        let plausible = |name: &&str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
            !name.is_empty() && name.len() <= 64 && name.chars().all(allowed)
        };
        match on_behalf_of.filter(plausible) {
            Some(user) if self.uid == 0 && user != self.name => format!("{user} as {}", self.name),
            _ => self.name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd:
                "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n"
                    .to_owned(),
            group: "root:x:0:\nweir:x:950:alice\nweird:x:951:bob\n".to_owned(),
        }
    }

    #[test]
    fn root_the_owner_and_the_group_operate_and_others_view() {
        let cases = [
            ((0, 0), "root", Role::Operator),
            ((1000, 1000), "alice", Role::Operator),
            ((1001, 1001), "bob", Role::Viewer),
            ((1001, 950), "bob", Role::Operator),
            ((77, 77), "77", Role::Operator),
            ((78, 951), "78", Role::Viewer),
        ];
        for ((uid, gid), name, role) in cases {
            let peer = accounts().peer(uid, gid, 77);
            assert_eq!((peer.name.as_str(), peer.role), (name, role), "uid {uid} gid {gid}");
        }
    }

    #[test]
    fn without_the_group_only_root_and_the_owner_operate() {
        let accounts = Accounts { group: String::new(), ..accounts() };
        assert_eq!(accounts.peer(1000, 0, 0).role, Role::Viewer);
        assert_eq!(accounts.operators(), None);
    }

    #[test]
    fn only_root_may_speak_for_somebody_else() {
        let root = accounts().peer(0, 0, 0);
        assert_eq!(root.on_record(Some("alice")), "alice as root");
        assert_eq!(root.on_record(Some("evil\nname")), "root");
        assert_eq!(accounts().peer(1000, 0, 0).on_record(Some("bob")), "alice");
    }
}
