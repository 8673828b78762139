//! The web server of a backend: its configuration, its start and its access log.
#![forbid(unsafe_code)]

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::{host::Host, plan::Family, process::Process};

/// How long a server may take until it accepts connections.
const START_LIMIT: Duration = Duration::from_secs(10);

/// While a file of this name is there, `/healthz` answers with status 500.
const SICK: &str = "sick";

/// What the web servers of a lab serve, and where.
#[derive(Clone, Debug)]
pub struct Web {
    /// The ports; on every address of the host, its VIPs included.
    pub ports: Vec<u16>,
    /// The size of `/big` in bytes.
    pub big_bytes: u64,
    /// How fast `/big` is sent on each connection, in bytes a second.
    pub big_rate: u64,
    /// How fast single backends send it, by name, where that is not as fast as the others.
    pub big_rates: Vec<(String, u64)>,
    /// How the servers' processes are scheduled.
    pub scheduling: Scheduling,
    /// Worker processes of each server; with none, the server is one process, and a small one: it dies fast.
    pub workers: u8,
    /// How long a server holds a connection that says nothing.
    pub patience: Duration,
    /// The program.
    pub program: Program,
}

/// A web server's program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Program {
    /// Serves everything that is said here.
    #[default]
    Nginx,
    /// One process with little memory to give back, so that it dies fast; it accepts and answers 404.
    Lighttpd,
}

/// How a program is scheduled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheduling {
    /// As any other.
    #[default]
    Ordinary,
    /// Before all ordinary ones (SCHED_FIFO): where a busy machine must not delay that a killed server is
    /// gone, since its sockets live as long as it waits for a processor to die on.
    Realtime,
}

impl Default for Web {
    /// Port 80; `/big` takes eight seconds.
    fn default() -> Self {
        Self {
            ports: vec![80],
            big_bytes: 512 << 10,
            big_rate: 64 << 10,
            big_rates: Vec::new(),
            scheduling: Scheduling::Ordinary,
            workers: 1,
            patience: Duration::from_secs(60),
            program: Program::Nginx,
        }
    }
}

/// One request that an nginx has answered, from its access log.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// When the answer was complete, in milliseconds precision.
    pub time: SystemTime,
    /// The client.
    pub client: SocketAddr,
    /// The address it asked.
    pub server: SocketAddr,
    /// The HTTP status.
    pub status: u16,
    /// Bytes of the body sent.
    pub body_bytes: u64,
    /// From the first byte of the request to the end of the answer.
    pub took: Duration,
    /// The path asked for.
    pub path: String,
}

/// The server's files on one backend.
#[derive(Debug)]
pub(crate) struct WebServer {
    directory: PathBuf,
    ports: Vec<u16>,
    scheduling: Scheduling,
    program: Program,
}

impl WebServer {
    /// Writes the configuration into a directory of the backend's own; `big` is the file behind `/big`.
    pub(crate) fn new(directory: PathBuf, backend: &str, web: &Web, big: &Path) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        let text = match web.program {
            Program::Nginx => configuration(&directory, backend, web, big),
            Program::Lighttpd => small_configuration(&directory, web),
        };
        fs::write(directory.join("web.conf"), text)?;
        Ok(Self { directory, ports: web.ports.clone(), scheduling: web.scheduling, program: web.program })
    }

    /// Starts the server without waiting for it.
    pub(crate) fn start(&self, host: &Host) -> Result<Process> {
        let file = |name: &str| self.directory.join(name);
        let name = match self.program {
            Program::Nginx => "nginx",
            Program::Lighttpd => "lighttpd",
        };
        let mut command = match self.scheduling {
            Scheduling::Ordinary => Command::new(name),
            Scheduling::Realtime => {
                let mut command = Command::new("chrt");
                command.args(["--fifo", "1", name]);
                command
            }
        };
        match self.program {
            Program::Nginx => command
                .arg("-e")
                .arg(file("error.log"))
                .arg("-c")
                .arg(file("web.conf"))
                .arg("-p")
                .arg(&self.directory),
            Program::Lighttpd => command.arg("-D").arg("-f").arg(file("web.conf")),
        };
        command.stdout(fs::File::create(file("stdout.log"))?).stderr(fs::File::create(file("stderr.log"))?);
        // On SIGTERM the master ends its workers too; on SIGKILL they would stay.
        host.spawn_with(command, Signal::TERM)
            .with_context(|| format!("is {name} installed? `cargo xtask setup` does it"))
    }

    /// Waits until the server accepts connections on every port of the host's own addresses.
    pub(crate) fn wait_ready(&self, host: &Host, process: &mut Process) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        for family in Family::BOTH {
            for port in &self.ports {
                let socket = host.socket(family, *port);
                while host.run(|| TcpStream::connect_timeout(&socket, Duration::from_millis(200))).is_err() {
                    if process.exited().is_some() || Instant::now() > deadline {
                        bail!("the web server does not answer on {socket}: {}", self.errors());
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            }
        }
        Ok(())
    }

    /// Lets `/healthz` answer with status 500 from the next request on; all else is served as before.
    pub(crate) fn sicken(&self) -> Result<()> {
        fs::write(self.directory.join(SICK), "").context("write the mark of sickness")
    }

    /// Ends the sickness.
    pub(crate) fn heal(&self) -> Result<()> {
        fs::remove_file(self.directory.join(SICK)).context("remove the mark of sickness")
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.directory.join("error.log")).unwrap_or_default()
    }

    /// Everything answered so far, in the order of the log.
    pub(crate) fn log(&self) -> Result<Vec<Access>> {
        let path = self.directory.join("access.log");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        // The last line may be half written.
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete
            .lines()
            .map(|line| parse(line).with_context(|| format!("parse access log: {line}")))
            .collect()
    }
}

fn configuration(directory: &Path, backend: &str, web: &Web, big: &Path) -> String {
    let at = directory.display();
    let listens = web.ports.iter().fold(String::new(), |mut text, port| {
        let _ = write!(text, "listen 0.0.0.0:{port} backlog=4096; listen [::]:{port} backlog=4096; ");
        text
    });
    format!(
        r#"daemon off;
user root;
{processes};
pid {at}/nginx.pid;
error_log {at}/error.log warn;
events {{ worker_connections {connections}; }}
http {{
    log_format lab "$msec $remote_addr $remote_port $server_addr $server_port $status $body_bytes_sent $request_time $uri";
    access_log {at}/access.log lab;
    client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
    uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
    client_header_timeout {patience}; keepalive_timeout {patience};
    default_type text/plain;
    add_header X-Backend {backend} always;
    server {{
        {listens}
        location = / {{ return 200 "{backend}\n"; }}
        location = /healthz {{
            if (-f {at}/{SICK}) {{ return 500 "sick\n"; }}
            return 200 "ok\n";
        }}
        location = /big {{ alias {big}; limit_rate {rate}; }}
        location / {{ return 404; }}
    }}
}}
"#,
        big = big.display(),
        rate = web.big_rates.iter().find(|(name, _)| name == backend).map_or(web.big_rate, |(_, rate)| *rate),
        processes = match web.workers {
            0 => "master_process off".to_owned(),
            workers => format!("worker_processes {workers}"),
        },
        connections = if web.workers == 0 { 512 } else { 4096 },
        patience = web.patience.as_secs(),
    )
}

/// lighttpd's: the same ports, and nothing to serve.
fn small_configuration(directory: &Path, web: &Web) -> String {
    let at = directory.display();
    let mut text = format!(
        "server.document-root = \"{at}\"\nserver.errorlog = \"{at}/error.log\"\nserver.max-connections = 512\n\
         server.listen-backlog = 4096\n"
    );
    for (number, port) in web.ports.iter().enumerate() {
        if number == 0 {
            let _ = writeln!(text, "server.bind = \"0.0.0.0\"\nserver.port = {port}");
        } else {
            let _ = writeln!(text, "$SERVER[\"socket\"] == \"0.0.0.0:{port}\" {{}}");
        }
        let _ = writeln!(text, "$SERVER[\"socket\"] == \"[::]:{port}\" {{}}");
    }
    text
}

fn parse(line: &str) -> Option<Access> {
    let mut words = line.splitn(9, ' ');
    let mut word = || words.next();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(word()?.parse().ok()?);
    let client = SocketAddr::new(address(word()?)?, word()?.parse().ok()?);
    let server = SocketAddr::new(address(word()?)?, word()?.parse().ok()?);
    let status = word()?.parse().ok()?;
    let body_bytes = word()?.parse().ok()?;
    let took = Duration::from_secs_f64(word()?.parse().ok()?);
    Some(Access { time, client, server, status, body_bytes, took, path: word()?.to_owned() })
}

fn address(text: &str) -> Option<IpAddr> {
    text.trim_matches(['[', ']']).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_log_line_is_read_back() {
        let access =
            parse("1795221000.125 2001:db8:c::10 40001 2001:db8::10 80 200 6 0.002 /").expect("valid line");
        assert_eq!(access.client, "[2001:db8:c::10]:40001".parse().expect("socket address"));
        assert_eq!((access.status, access.body_bytes, access.path.as_str()), (200, 6, "/"));
        assert_eq!(access.took, Duration::from_millis(2));
        assert!(parse("1795221000.125 2001:db8:c::10").is_none());
    }
}
