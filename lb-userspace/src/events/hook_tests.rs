//! Hooks with real commands and a real server.

use std::path::Path;

use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::events::Kind;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

fn event(seq: u64) -> Arc<Event> {
    let event = Event::new(Kind::Health, Timestamp::constant(1_795_000_000, 0));
    Arc::new(Event { seq, ..event.of_backend("web", "web-1").is("down") })
}

fn hook(target: HookTarget, queue: usize) -> Hook {
    Hook { name: "pager".to_owned(), target, kinds: Vec::new(), timeout: LIMIT, queue }
}

fn shell(script: String) -> HookTarget {
    HookTarget::Exec(vec!["/bin/sh".to_owned(), "-c".to_owned(), script])
}

fn start(hook: Hook) -> RunningHook {
    RunningHook::start(hook, &tokio::runtime::Handle::current())
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn lines(file: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let seq = |line: &str| serde_json::from_str::<Event>(line).map(|event| event.seq).unwrap_or_default();
    text.lines().map(seq).collect()
}

#[tokio::test]
async fn a_command_gets_every_event_in_order_on_its_standard_input() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("seen");
    let running = start(hook(shell(format!("cat >> {}", file.display())), 100));
    (1..=20).for_each(|seq| running.offer(&event(seq)));
    until("all arrive", || lines(&file).len() == 20).await;
    assert_eq!(lines(&file), (1..=20).collect::<Vec<_>>());
    assert_eq!(running.problem(), None);
}

#[tokio::test]
async fn only_the_kinds_asked_for_are_handed_on() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("seen");
    let target = shell(format!("cat >> {}", file.display()));
    let running = start(Hook { kinds: vec![Kind::Reload, Kind::Health], ..hook(target, 100) });
    let other = Event { seq: 1, ..Event::new(Kind::Tier, Timestamp::now()) };
    running.offer(&Arc::new(other));
    running.offer(&event(2));
    until("the second arrives", || !lines(&file).is_empty()).await;
    assert_eq!(lines(&file), [2]);
}

#[tokio::test]
async fn a_full_queue_drops_the_oldest_counted_and_never_waits() {
    let directory = tempfile::tempdir().expect("directory");
    let (gate, file) = (directory.path().join("gate"), directory.path().join("seen"));
    let script = format!("while [ ! -e {} ]; do sleep 0.01; done; cat >> {}", gate.display(), file.display());
    let running = start(hook(shell(script), 3));
    running.offer(&event(1));
    // The first is being handed on, so that the queue is empty.
    until("the first is taken", || running.queue.lock().waiting.is_empty()).await;
    (2..=10).for_each(|seq| running.offer(&event(seq)));
    let problem = running.problem().expect("a problem");
    assert_eq!(problem, "hook pager: 6 events dropped, its queue was full");
    std::fs::write(&gate, "").expect("opens");
    until("the rest arrives", || lines(&file).len() == 4).await;
    assert_eq!(lines(&file), [1, 8, 9, 10]);
}

#[tokio::test]
async fn a_command_that_fails_hangs_or_does_not_exist_is_a_problem_until_it_works_again() {
    let directory = tempfile::tempdir().expect("directory");
    let works = directory.path().join("works");
    let running = start(hook(shell(format!("cat > /dev/null; test -e {}", works.display())), 10));
    running.offer(&event(1));
    until("it fails", || running.problem().is_some()).await;
    let problem = running.problem().expect("a problem");
    assert!(
        problem.starts_with("hook pager: 1 events failed, the last: /bin/sh: exit status: 1"),
        "{problem}"
    );
    std::fs::write(&works, "").expect("writes");
    running.offer(&event(2));
    until("it works again", || running.problem().is_none()).await;

    let missing = start(hook(HookTarget::Exec(vec!["/nonexistent".to_owned()]), 10));
    missing.offer(&event(1));
    until("it fails", || missing.problem().is_some()).await;
    assert!(missing.problem().expect("a problem").contains("run /nonexistent: No such file"));

    let pid = directory.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
    let short = Duration::from_millis(300);
    let hanging = start(Hook { timeout: short, ..hook(shell(script), 10) });
    hanging.offer(&event(1));
    until("it fails", || hanging.problem().is_some()).await;
    assert!(hanging.problem().expect("a problem").contains("not done within 300 ms"));
    let child = std::fs::read_to_string(&pid).expect("a child");
    let alive = || {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        !status.is_empty() && !status.contains(") Z ")
    };
    until("what it started has ended", || !alive()).await;
}

#[tokio::test]
async fn a_webhook_gets_the_event_as_a_posted_document() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let port = listener.local_addr().expect("an address").port();
    let server = tokio::spawn(async move {
        let mut requests = Vec::new();
        for status in ["204 No Content", "500 Internal Server Error"] {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut request = Vec::new();
            while !request.ends_with(b"}\n") {
                assert_ne!(stream.read_buf(&mut request).await.expect("reads"), 0);
            }
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.expect("answers");
            requests.push(String::from_utf8(request).expect("text"));
        }
        requests
    });
    let target = HookTarget::Post { host: "127.0.0.1".to_owned(), port, path: "/weir?to=me".to_owned() };
    let running = start(hook(target, 10));
    running.offer(&event(1));
    running.offer(&event(2));
    let requests = server.await.expect("serves");
    let (head, body) = requests[0].split_once("\r\n\r\n").expect("a body");
    assert!(head.starts_with("POST /weir?to=me HTTP/1.1\r\n"), "{head}");
    assert_eq!(serde_json::from_str::<Event>(body).expect("an event"), *event(1));
    until("the refusal is told", || running.problem().is_some()).await;
    let problem = running.problem().expect("a problem");
    assert!(problem.contains("1 events failed, the last: post to 127.0.0.1"), "{problem}");
}
