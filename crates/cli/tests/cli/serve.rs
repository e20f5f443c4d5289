//! The server as its operators meet it: sockets, signals, files, exit codes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use crate::run::{NANO, command, dir, ds4, file};

/// A running server; killed when the test ends.
struct Server {
    child: Child,
    err: BufReader<ChildStderr>,
    address: String,
    log: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

impl Server {
    /// Starts it on a free port and waits until it listens.
    fn start(args: &[&str]) -> Self {
        let mut command = command();
        command.arg("serve").args(["--port", "0"]).args(args);
        Self::run(command)
    }

    fn run(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut err = BufReader::new(child.stderr.take().unwrap());
        let mut log = String::new();
        let address = loop {
            let mut line = String::new();
            assert!(err.read_line(&mut line).unwrap() > 0, "it ended: {log}");
            log += &line;
            if let Some((_, address)) = line.split_once("listening on http://") {
                break address.split(['"', '\n']).next().unwrap().to_owned();
            }
        };
        Self { child, err, address, log }
    }

    /// Sends a request and returns the whole response.
    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        talk(&mut stream, request)
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// Waits for the end; exit code and the rest of the log.
    fn ended(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.err.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

fn talk(stream: &mut (impl Read + Write), request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    let n = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {n}\r\n\r\n{body}"
    )
}

const QUESTION: &str = r#"{"messages": [{"role": "user", "content": "Hi"}], "thinking": false,
    "max_tokens": 5, "temperature": 0}"#;

#[test]
fn it_answers_and_ends_when_asked() {
    for name in ["-TERM", "-INT"] {
        let server = Server::start(&["-m", NANO]);
        assert!(server.log.contains(" memory: "), "{}", server.log);
        let first = server.log.lines().next().unwrap();
        let (date, rest) = first.split_once(' ').unwrap();
        assert!(date.len() == 4 && date.bytes().all(|b| b.is_ascii_digit()), "{first}");
        assert_eq!(rest.as_bytes()[2], b':', "{first}");
        assert!(server.ask(&get("/health")).contains("\"ok\""));
        let answer = server.ask(&post("/v1/chat/completions", QUESTION));
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        let answer = server.ask(&post("/v1/chat/completions", "{}"));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        server.signal(name);
        let (code, log) = server.ended();
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(log.matches(" request id=").count(), 1, "{log}");
        let refused = log.lines().find(|line| line.contains(" refused id=")).unwrap_or_default();
        assert!(refused.contains("status=400 error=\"missing field `messages`\""), "{log}");
        assert!(log.contains("finish=\"") && log.contains("ds4-server: ended"), "{log}");
    }
}

#[test]
fn a_second_signal_leaves_at_once() {
    let long = format!(r#"[{{"text": "{}"}}]"#, "word ".repeat(20_000));
    let script = file("serve-long.json", long);
    let server = Server::start(&["-m", NANO, "--drain-sec", "60", "--test-script", &script]);
    let body = QUESTION.replace("\"max_tokens\": 5", "\"max_tokens\": 30000, \"stream\": true");
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(post("/v1/chat/completions", &body).as_bytes()).unwrap();
    let mut some = [0; 2000];
    stream.read_exact(&mut some).unwrap();
    server.signal("-TERM");
    std::thread::sleep(Duration::from_millis(300));
    server.signal("-TERM");
    let began = Instant::now();
    let (code, log) = server.ended();
    assert_eq!(code, Some(130), "{log}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_second_program_is_the_same() {
    let output = Command::new(env!("CARGO_BIN_EXE_ds4-server")).arg("--nonsense").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.starts_with("ds4-server: ") && err.lines().count() == 1, "{err}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ds4-server"));
    command.args(["-m", NANO, "--port", "0", "-c", "1000", "--cors", "-n", "77"]);
    let server = Server::run(command);
    let models = server.ask(&get("/v1/models"));
    assert!(models.contains("\"context_length\":1000"), "{models}");
    assert!(models.contains("\"max_completion_tokens\":77"));
    assert!(models.to_lowercase().contains("access-control-allow-origin: *"));
}

#[test]
fn sessions_survive_a_restart() {
    let cache = dir().join("serve-kv");
    let _ = fs::remove_dir_all(&cache);
    let args = ["-m", NANO, "--kv-disk-dir", cache.to_str().unwrap(), "--parallel", "1"];
    let words = "word ".repeat(900);
    let body = QUESTION.replace("Hi", &words);
    let server = Server::start(&args);
    let first = server.ask(&post("/v1/chat/completions", &body));
    assert!(first.contains("\"cached_tokens\":0,"), "{first}");
    server.signal("-TERM");
    assert_eq!(server.ended().0, Some(0));
    let server = Server::start(&args);
    let second = server.ask(&post("/v1/chat/completions", &body));
    let text = |response: &str| {
        let at = response.find("\"content\":").unwrap();
        response[at..].split(",\"finish").next().unwrap().to_owned()
    };
    assert_eq!(text(&first), text(&second));
    let at = second.find("\"cached_tokens\":").unwrap() + "\"cached_tokens\":".len();
    let cached: usize = second[at..].split(',').next().unwrap().parse().unwrap();
    assert!(cached > 800, "{second}");
    let metrics = server.ask(&get("/metrics"));
    assert!(metrics.contains("ds4_cache_hits_total{source=\"disk\"} 1"), "{metrics}");
}

#[test]
fn a_file_has_flags() {
    let keys = file("serve-keys", "# for tests\n\nfile-key\n");
    let trace = dir().join("serve-trace");
    let _ = fs::remove_file(&trace);
    let config = format!(
        "model = {NANO:?}\nctx = 2000\nlog-json = true\napi-key-file = {keys:?}\n\
         api-key = [\"config-key\"]\ntrace = {trace:?}\n",
    );
    let config = file("serve.toml", config);
    let server = Server::start(&["--config", &config, "--ctx", "1500"]);
    for line in server.log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["message"].is_string() && line["level"] == "INFO", "{line}");
    }
    assert!(server.ask(&get("/v1/models")).starts_with("HTTP/1.1 401"));
    for key in ["file-key", "config-key"] {
        let shown = format!("Authorization: Bearer {key}\r\nConnection: close");
        let models = server.ask(&get("/v1/models").replace("Connection: close", &shown));
        assert!(models.contains("\"context_length\":1500"), "{models}");
    }
    let shown = "x-api-key: file-key\r\nConnection: close";
    let ask = post("/v1/chat/completions", QUESTION).replace("Connection: close", shown);
    assert!(server.ask(&ask).starts_with("HTTP/1.1 200"));
    let began = Instant::now();
    while !fs::read_to_string(&trace).is_ok_and(|text| text.contains("---- end\n")) {
        assert!(began.elapsed() < Duration::from_secs(5), "no trace");
        std::thread::sleep(Duration::from_millis(10));
    }
    let text = fs::read_to_string(&trace).unwrap();
    for part in ["---- prompt\n<｜begin▁of▁sentence｜>", "---- cache\ncold; ", "---- output\n"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_unix_socket_is_enough() {
    let path = dir().join("serve.sock");
    let _ = fs::remove_file(&path);
    // One that a killed server left.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = Server::start(&["-m", NANO, "--unix", path.to_str().unwrap()]);
    let mut stream = UnixStream::connect(&path).unwrap();
    assert!(talk(&mut stream, &get("/health")).contains("\"ok\""));
    server.signal("-TERM");
    assert_eq!(server.ended().0, Some(0));
    assert!(!path.exists());
}

#[test]
fn answers_come_from_a_script_in_tests() {
    let script = file("serve-script.json", r#"[{"text": "Just so."}]"#);
    let server = Server::start(&["-m", NANO, "--test-script", &script]);
    let answer = server.ask(&post("/v1/chat/completions", QUESTION));
    assert!(answer.contains("\"content\":\"Just so.\""), "{answer}");
}

#[test]
fn what_cannot_be_is_refused() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let bad = file("serve-bad.toml", "prot = 1");
    for (args, code, wanted) in [
        (&["--port", &port][..], 1, "cannot listen on 127.0.0.1"),
        (&["--host", "no.such.host.invalid"], 1, "no such address"),
        (
            &["--kv-cache-cold-max-tokens", "9"],
            2,
            "--kv-cache-cold-max-tokens must be 0 or at least",
        ),
        (&["--ctx-total", "9"], 2, "--ctx-total must be at least --ctx"),
        (&["--parallel", "1024", "--ctx", "4000000000"], 1, "out of memory: 1024 sessions"),
        (&["--model-alias", "x"], 2, "--model-alias x: must be NAME=MODEL"),
        (&["--model-rule", "x=maybe"], 2, "--model-rule x=maybe: must be"),
        (&["--config", &bad], 2, "prot: there is no such flag"),
        (&["--chdir", "/nowhere"], 2, "--chdir /nowhere"),
        (&["--log", "=="], 2, "--log =="),
        (&["--api-key-file", "/nowhere"], 1, "cannot read /nowhere"),
        (&["--cuda"], 1, "no NVIDIA driver or no GPU was found"),
    ] {
        let port = if args[0] == "--port" { &[][..] } else { &["--port", "0"] };
        let run = ds4(&[&["serve", "-m", NANO], port, args].concat());
        assert_eq!(run.code, code, "{args:?}: {}", run.err);
        assert!(run.err.lines().last().unwrap().contains(wanted), "{args:?}: {}", run.err);
        assert!(!run.err.contains("panicked"));
    }
}
