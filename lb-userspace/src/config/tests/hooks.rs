//! `[[hook]]` and `[events]` that are refused.

use super::refused::refused;

/// Refuses a hook's lines with these errors.
#[track_caller]
fn refused_hook(lines: &str, expected: &[&str]) {
    refused("[[service]]", &format!("[[hook]]\n{lines}\n[[service]]"), expected);
}

#[test]
fn a_hook_has_one_target_that_can_be_told() {
    for (lines, expected) in [
        (
            "name = \"a\"",
            "2: hook \"a\": what to tell is missing: add exec = [\"/path/of/command\"], or url = \"http://…\"",
        ),
        (
            "name = \"a\"\nexec = [\"/bin/true\"]\nurl = \"http://localhost\"",
            "5: hook \"a\": url and exec are both given: a hook has one of them",
        ),
        (
            "name = \"a\"\nexec = [\"page\", \"now\"]",
            "4: hook \"a\": exec must begin with the full path of a command; it is run without a shell",
        ),
        (
            "name = \"a\"\nurl = \"https://example.com\"",
            "4: hook \"a\": url has the scheme https, which is not available; use exec with a client such as curl",
        ),
        (
            "name = \"a\"\nurl = \"example.com\"",
            "4: hook \"a\": url \"example.com\" is no URL that can be posted to; write http://HOST[:PORT][/PATH]",
        ),
        (
            "name = \"a\"\nurl = \"http://127.0.0.1:90000/weir\"",
            "4: hook \"a\": url \"http://127.0.0.1:90000/weir\" is no URL that can be posted to; write http://HOST[:PORT][/PATH]",
        ),
        (
            "name = \"a\"\nurl = \"http://x:/p\"",
            "4: hook \"a\": url \"http://x:/p\" is no URL that can be posted to; write http://HOST[:PORT][/PATH]",
        ),
        ("exec = \"/bin/true\"", "2: hook 1: `name` is missing: add name = \"…\""),
        (
            "name = \"a\"\nexec = \"/bin/true\"\nqueue = 0",
            "5: hook \"a\": queue must be an integer from 1 to 65536, got 0",
        ),
        (
            "name = \"a\"\nexec = \"/bin/true\"\n[[hook]]\nname = \"a\"\nexec = \"/bin/false\"",
            "5: hook \"a\": the name is given twice, first at weir.toml:2",
        ),
    ] {
        refused_hook(lines, &[expected]);
    }
}

#[test]
fn kinds_of_events_are_known_and_the_record_has_a_least_size() {
    refused_hook(
        "name = \"a\"\nexec = \"/bin/true\"\nkinds = [\"health\", \"helth\"]",
        &[
            "5: hook \"a\": kinds `helth` is no kind of event: expected health, admin, weight, backend, tier, freeze, \
           interface, reload, rollout, drill, deny, limit, daemon",
        ],
    );
    refused(
        "[[service]]",
        "[events]\nmax_bytes = 1000\n[[service]]",
        &["3: [events]: max_bytes must be an integer from 1048576 to 1099511627776, got 1000"],
    );
}
