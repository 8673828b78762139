//! What the kernel must allow this process.

use rustix::thread::{CapabilitySet, capabilities};

use crate::failure::{Code, Failure};

/// Refuses, naming what is missing, where the kernel would refuse later with less to say.
pub(super) fn check() -> Result<(), Failure> {
    let held = capabilities(None).map_err(|error| {
        Failure::new(Code::Failed, format!("ask for this process's capabilities: {error}"))
    })?;
    let missing = missing(held.effective);
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(
            Code::Failed,
            format!(
                "run weir: operation not permitted without {}; run it as root, or grant them",
                missing.join(", ")
            ),
        )),
    }
}

/// Names of needed capabilities that are not in `held`. CAP_SYS_ADMIN stands for those split off from it.
fn missing(held: CapabilitySet) -> Vec<&'static str> {
    let needed = [
        (CapabilitySet::BPF, "CAP_BPF"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::PERFMON, "CAP_PERFMON"),
        (CapabilitySet::NET_RAW, "CAP_NET_RAW"),
    ];
    let split_off = CapabilitySet::BPF | CapabilitySet::PERFMON;
    let held_by_admin =
        |one: CapabilitySet| held.contains(CapabilitySet::SYS_ADMIN) && split_off.contains(one);
    let absent = needed.into_iter().filter(|(one, _)| !held.contains(*one) && !held_by_admin(*one));
    absent.map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let all =
            CapabilitySet::BPF | CapabilitySet::NET_ADMIN | CapabilitySet::PERFMON | CapabilitySet::NET_RAW;
        assert_eq!(missing(all), [""; 0]);
        assert_eq!(missing(CapabilitySet::NET_ADMIN), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_RAW"]);
        let admin = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
        assert_eq!(missing(admin), [""; 0]);
    }
}
