//! `puna serve` as a process: its address, its refusals, its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::run::{command, puna};

/// A server, killed if a test fails.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn start(args: &[&str]) -> Self {
        let mut child = command(&[&["serve", "--port", "0"], args].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("one line");
        let address = line.trim().strip_prefix("http://").expect("an address").to_owned();
        Self { child, address }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: \
             application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        serde_json::from_str(body).expect("JSON")
    }

    /// Ends it as systemd does.
    #[cfg(unix)]
    fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        let killed = std::process::Command::new("kill").args(["-TERM", &pid]).status();
        assert!(killed.expect("kill is there").success());
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(unix)]
#[test]
fn the_embedded_model_is_served_as_generate_runs_it_and_sigterm_ends_with_0() {
    let server = Serving::start(&["-t", "1"]);
    let ask = json!({ "prompt": "A vector is", "max_tokens": 12, "temperature": 0 });
    let answer = server.post("/v1/completions", &ask);
    let args = ["generate", "A vector is", "-n", "12", "--temperature", "0", "--json", "-t", "1"];
    let alone = puna(&args).json();
    let text = alone["text"].as_str().expect("a text");
    assert_eq!(answer["choices"][0]["text"], text);
    assert_eq!(answer["model"], "puna-mini");
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn settings_that_cannot_be_end_with_2_and_a_hint() {
    for (args, word) in [
        (&["--host", "0.0.0.0"][..], "--api-key-file"),
        (&["--adapter", "law=./nowhere@none"], "none"),
        (&["-m", "a=puna-mini", "-m", "a=puna-mini"], "NAME=MODEL"),
        (&["--kv-memory", "5MB"], "MiB"),
        (&["--cors-origin", "example.org"], "https://"),
        (&["--api-key-file", "/nowhere/keys"], "/nowhere/keys"),
        (&["--max-sequences", "0"], "max_sequences"),
    ] {
        let ran = puna(&[&["serve", "--port", "0"], args].concat());
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stdout.is_empty() && ran.stderr.contains(word), "{args:?}: {}", ran.stderr);
    }
}
