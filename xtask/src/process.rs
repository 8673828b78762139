//! Commands that tasks run: where they run, how they read in a message, and what they answer.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// The folder that cargo builds into.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// A command that runs in the workspace's root and gets no input.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// The cargo that runs this task.
pub(crate) fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Whether this process may make network namespaces and load programs.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Where `program` is, in `PATH` or in the folders of system programs that an ordinary user's `PATH` may lack.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// What `command` prints on stdout.
///
/// # Errors
/// When it cannot be started or ends with a failure; the message holds the end of its output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = shell_line(command);
    let output = command.output().with_context(|| format!("run {line}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let text = stdout + &String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().collect();
        bail!("run {line}: {}\n{}", output.status, lines[lines.len().saturating_sub(30)..].join("\n"));
    }
    Ok(stdout)
}

/// The command as it is typed in a shell, with the program by its name.
pub(crate) fn shell_line(command: &Command) -> String {
    let mut line = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = write!(line, "{}={} ", name.to_string_lossy(), quoted(value));
        }
    }
    let program = Path::new(command.get_program());
    line += &quoted(program.file_name().unwrap_or(program.as_os_str()));
    for arg in command.get_args() {
        line.push(' ');
        line += &quoted(arg);
    }
    line
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into_owned() } else { format!("'{word}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_reads_as_it_is_typed() {
        let mut command = Command::new("/toolchains/stable/bin/cargo");
        command.env("RUSTFLAGS", "--cfg loom").args(["test", "-p", "lb-common"]);
        assert_eq!(shell_line(&command), "RUSTFLAGS='--cfg loom' cargo test -p lb-common");
    }

    #[test]
    fn a_failing_command_tells_its_output() {
        let error = output(command("sh").args(["-c", "echo reason >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().ends_with("\nreason"), "{error}");
    }

    #[test]
    fn a_program_is_found_in_path_only_when_it_exists() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
    }
}
