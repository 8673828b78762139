//! A run of steps: each a command whose output is passed on and read for test results, with its time, and the
//! sum of all at the end.

use std::{
    io::{BufRead as _, BufReader, IsTerminal as _, Read, Write},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::process;

/// The steps so far and what they added up to.
#[derive(Default)]
pub(crate) struct Steps {
    tally: Tally,
    /// Steps that failed otherwise than by failed tests.
    broken: Vec<&'static str>,
    /// What was missing for groups of tests that were not even started.
    not_started: Vec<String>,
    /// Tests that failed, and passed when they were repeated.
    flaky: Vec<String>,
}

/// Counts of tests.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    /// Skipped tests among them: libtest knows no other outcome for them.
    passed: u64,
    failed: u64,
    ignored: u64,
    /// The missing capability of each test that skipped itself.
    skipped: Vec<String>,
    /// The failed tests' names.
    failures: Vec<String>,
}

/// More failed tests than this are no accident of the machine, and are not repeated.
const MOST_REPEATED: usize = 4;

impl Steps {
    /// Runs `command` and passes its output on. A failure is noted, and the run goes on.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub(crate) fn run(&mut self, name: &'static str, command: &mut Command) -> Result<()> {
        let (success, tally) = execute(name, command)?;
        self.note(name, success, tally);
        Ok(())
    }

    /// As [`Steps::run`], for tests that a busy machine can make fail, and none of random cases: the few that do are repeated, alone, by the command
    /// that `repeat` makes of their names. What fails again has failed; what passes is named at the end.
    ///
    /// # Errors
    /// As for [`Steps::run`].
    pub(crate) fn run_repeating(
        &mut self,
        name: &'static str,
        command: &mut Command,
        repeat: impl FnOnce(&[String]) -> Command,
    ) -> Result<()> {
        let (success, tally) = execute(name, command)?;
        let accident = 1..=MOST_REPEATED;
        if success || !accident.contains(&tally.failures.len()) || tally.failed != tally.failures.len() as u64
        {
            self.note(name, success, tally);
            return Ok(());
        }
        println!("\nfailed, so repeated: {}", tally.failures.join(", "));
        let (success, again) = execute(name, &mut repeat(&tally.failures))?;
        self.note_repeated(name, success, tally, again);
        Ok(())
    }

    /// Runs a step that is not a command. A failure is noted, and the run goes on.
    pub(crate) fn check(&mut self, name: &'static str, check: impl FnOnce() -> Result<String>) {
        println!("\n== {name}");
        let started = Instant::now();
        let verdict = match check() {
            Ok(detail) => detail,
            Err(error) => {
                println!("{error:#}");
                self.broken.push(name);
                "FAILED".into()
            }
        };
        println!("== {name}: {verdict} ({:.1} s)", started.elapsed().as_secs_f64());
    }

    /// Counts tests that could not run at all.
    pub(crate) fn skip(&mut self, capability: &str) {
        println!("\nSKIPPED: {capability}");
        self.not_started.push(capability.into());
    }

    /// Takes a filter that let no test through for a mistake.
    pub(crate) fn expect_tests(&mut self, filter: &str) {
        let Tally { passed, failed, .. } = self.tally;
        if passed + failed == 0 && self.not_started.is_empty() && self.broken.is_empty() {
            println!("\nno test has `{filter}` in its name");
            self.broken.push("filter");
        }
    }

    /// Prints what failed and was skipped.
    ///
    /// # Errors
    /// When a step failed; when a test was skipped while `CI` is `true`.
    pub(crate) fn finish(self) -> Result<()> {
        self.close(Closing::Quiet)
    }

    /// Prints what failed and was skipped, and the sum of all test runs as the last line.
    ///
    /// # Errors
    /// As for [`Steps::finish`].
    pub(crate) fn finish_with_sum(self) -> Result<()> {
        self.close(Closing::Sum)
    }

    /// Takes a step into the account: failed tests count one by one, any other failure of a step as one.
    fn note(&mut self, name: &'static str, success: bool, tally: Tally) {
        if !success && tally.failed == 0 {
            self.broken.push(name);
        }
        self.tally.add(tally);
    }

    /// Takes the repetition of a step's failed tests into the account: a test that was not found again has failed.
    fn note_repeated(&mut self, name: &'static str, success: bool, first: Tally, again: Tally) {
        let passed = if success { again.passed.min(first.failed) } else { 0 };
        if passed == first.failed {
            self.flaky.extend(first.failures.iter().cloned());
            self.note(name, true, Tally { failed: 0, passed: first.passed + passed, ..first });
        } else {
            self.note(name, false, first);
        }
    }

    fn close(self, closing: Closing) -> Result<()> {
        println!();
        let Tally { passed, failed, ignored, skipped, .. } = self.tally;
        let passed = passed.saturating_sub(skipped.len() as u64);
        let skipped = [skipped, self.not_started].concat();
        for capability in &skipped {
            println!("skipped for want of: {capability}");
        }
        if ignored > 0 {
            println!("ignored: {ignored}");
        }
        for name in &self.broken {
            println!("failed step: {name}");
        }
        for name in &self.flaky {
            println!("failed once and passed when repeated: {name}");
        }
        let mut failed = failed + self.broken.len() as u64;
        let mut skips = String::new();
        if !skipped.is_empty() {
            if std::env::var("CI").is_ok_and(|ci| ci == "true") {
                println!("CI=true: a skipped test is a failed one");
                failed += skipped.len() as u64;
            } else {
                skips = format!(", {} skipped", skipped.len());
            }
        }
        if let Closing::Sum = closing {
            println!("{passed} passed, {failed} failed{skips}");
        }
        if failed > 0 {
            // The lines above said what; an error message after the sum would hide it.
            if let Closing::Sum = closing {
                std::process::exit(1);
            }
            bail!("a step failed: {}", self.broken.join(", "));
        }
        Ok(())
    }
}

enum Closing {
    Quiet,
    Sum,
}

/// Runs a command and passes its output on; whether it succeeded, and what it counted.
fn execute(name: &str, command: &mut Command) -> Result<(bool, Tally)> {
    println!("\n== {name}: {}", process::shell_line(command));
    let started = Instant::now();
    if std::io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {}", process::shell_line(command)))?;
    let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        scope.spawn(|| pass_on(stderr, std::io::stdout(), &tally));
        pass_on(stdout, std::io::stdout(), &tally);
    });
    let success = child.wait()?.success();
    let tally = tally.into_inner().expect("readers end without panic");
    println!("== {name}: {} ({:.1} s)", tally.verdict(success), started.elapsed().as_secs_f64());
    Ok((success, tally))
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.skipped.extend(other.skipped);
    }

    /// Takes in one line of a test run's output.
    fn read(&mut self, line: &str) {
        if let Some((_, capability)) = line.split_once("SKIPPED: ") {
            self.skipped.push(capability.trim().into());
        }
        if let Some(test) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.push(test.into());
        }
        if let Some(counts) = line.strip_prefix("test result: ") {
            for part in counts.split(['.', ';']) {
                match part.trim().split_once(' ') {
                    Some((number, "passed")) => self.passed += number.parse::<u64>().unwrap_or(0),
                    Some((number, "failed")) => self.failed += number.parse::<u64>().unwrap_or(0),
                    Some((number, "ignored")) => self.ignored += number.parse::<u64>().unwrap_or(0),
                    _ => {}
                }
            }
        }
    }

    fn verdict(&self, success: bool) -> String {
        let word = if success { "ok" } else { "FAILED" };
        match self {
            Self { passed: 0, failed: 0, .. } => word.into(),
            Self { passed, failed, .. } => format!("{word}, {passed} passed, {failed} failed"),
        }
    }
}

/// Passes each line on as it comes, and reads it.
fn pass_on(stream: impl Read, mut to: impl Write, tally: &Mutex<Tally>) {
    let mut listing = false;
    for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        tally.lock().expect("readers end without panic").read(&line);
        // With --show-output, libtest names the successful tests again after their output.
        listing = line == "successes:" || listing && (line.is_empty() || line.starts_with("    "));
        if !listing && !is_replayed(&line) {
            // Whoever closed our output still wants the exit code.
            let _ = writeln!(to, "{line}");
        }
    }
}

/// Whether cargo repeats the progress of the packet program's build, which it keeps as warnings of the build
/// script and prints again at every step.
fn is_replayed(line: &str) -> bool {
    let progress = ["   Compiling ", "    Finished ", " Downloading ", "  Downloaded ", "    Blocking "];
    line.contains("lb-userspace@") && progress.iter().any(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_test_runs_add_up() {
        let mut tally = Tally::default();
        tally.read(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        tally.read("test flows::a_flow_keeps_its_backend ... ok");
        tally.read("test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(tally, Tally { passed: 7, failed: 2, ignored: 1, ..Tally::default() });
    }

    #[test]
    fn a_failed_test_that_passes_when_repeated_is_a_passed_one_with_a_name() {
        let read = |lines: [&str; 2]| {
            let mut tally = Tally::default();
            lines.iter().for_each(|line| tally.read(line));
            tally
        };
        let failed =
            || read(["test drain::ends ... FAILED", "test result: FAILED. 4 passed; 1 failed; 0 ignored"]);
        let passed = read(["test drain::ends ... ok", "test result: ok. 1 passed; 0 failed; 0 ignored"]);
        let mut steps = Steps::default();
        steps.note_repeated("lab tests", true, failed(), passed);
        assert_eq!((steps.tally.passed, steps.tally.failed, steps.flaky.len()), (5, 0, 1));
        steps.note_repeated("lab tests", false, failed(), failed());
        assert_eq!((steps.tally.passed, steps.tally.failed, steps.flaky.len()), (9, 1, 1));
        // A repetition that finds no test proves nothing.
        steps.note_repeated("lab tests", true, failed(), Tally::default());
        assert_eq!((steps.tally.failed, steps.flaky.len()), (2, 1));
    }

    #[test]
    fn a_skipped_test_is_counted_with_the_capability_it_lacks() {
        let mut tally = Tally::default();
        tally.read("test drain::ends ... SKIPPED: CAP_NET_ADMIN");
        assert_eq!(tally.skipped, ["CAP_NET_ADMIN"]);
    }

    #[test]
    fn a_step_that_fails_without_a_failed_test_is_named() {
        let mut steps = Steps::default();
        steps.note("build", false, Tally::default());
        steps.note("unit tests", false, Tally { passed: 2, failed: 1, ..Tally::default() });
        assert_eq!(steps.broken, ["build"]);
        assert_eq!((steps.tally.passed, steps.tally.failed), (2, 1));
    }

    #[test]
    fn only_the_progress_of_the_packet_programs_build_is_left_out() {
        assert!(is_replayed("warning: lb-userspace@0.1.0:    Compiling core v0.0.0 (/rust/library/core)"));
        assert!(!is_replayed("warning: lb-userspace@0.1.0: warning: unused variable: `n`"));
        assert!(!is_replayed("   Compiling lb-userspace v0.1.0 (/src/weir/lb-userspace)"));
    }

    #[test]
    fn the_second_list_of_successful_tests_is_left_out() {
        let output = "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\nSKIPPED: veth\n\n\nsuccesses:\n    a\n\n\
                      test result: ok. 1 passed; 0 failed\n";
        let (mut shown, tally) = (Vec::new(), Mutex::default());
        pass_on(output.as_bytes(), &mut shown, &tally);
        let expected =
            "test a ... ok\n\n---- a stdout ----\nSKIPPED: veth\n\n\ntest result: ok. 1 passed; 0 failed\n";
        assert_eq!(String::from_utf8(shown).unwrap(), expected);
        let tally: Tally = tally.into_inner().unwrap();
        assert_eq!((tally.passed, tally.skipped), (1, vec!["veth".to_owned()]));
    }
}
