//! The `weir` binary as a shell sees it.

use assert_cmd::Command;

fn weir() -> Command {
    let mut command = Command::cargo_bin("weir").expect("built");
    for variable in ["NO_COLOR", "CLICOLOR_FORCE", "CLICOLOR", "WEIR_LOG"] {
        command.env_remove(variable);
    }
    command
}

#[test]
fn colours_are_for_terminals_and_no_color_is_honoured() {
    let styled = |command: &mut Command| {
        let output = command.arg("--help").output().expect("runs");
        assert!(output.status.success());
        output.stdout.contains(&0x1b)
    };
    assert!(!styled(&mut weir()), "a pipe is no terminal");
    assert!(styled(weir().env("CLICOLOR_FORCE", "1")));
    assert!(!styled(weir().env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1")));
}

#[test]
fn a_daemon_that_does_not_run_exits_3_with_a_json_error_on_stderr() {
    let directory = tempfile::tempdir().expect("directory");
    let socket = directory.path().join("weir.sock");
    let output = weir().args(["reload", "-o", "json", "--socket"]).arg(socket).output().expect("runs");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b""[..]));
    let document: serde_json::Value = serde_json::from_slice(&output.stderr).expect("json");
    assert_eq!(document["error"]["code"], "unreachable");
}
