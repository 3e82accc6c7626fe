//! The socket's bounds: one agent, a limited number of guests, limited lines and patience.

use super::fixture;
use crate::ctl::client::{self, ClientError};
use crate::ctl::protocol::{MAX_REQUEST, RefusalKind, Request, Response};
use crate::ctl::server::{Asked, IDLE, MAX_CONNECTIONS, MODE, Server, ServerError};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

struct Up {
    dir: TempDir,
    asked: mpsc::Receiver<Asked>,
    server: JoinHandle<()>,
}

impl Up {
    fn path(&self) -> PathBuf {
        self.dir.path().join("mainstay.sock")
    }

    /// Answers like an agent: status with a report, everything else with a word.
    fn answering(mut self) -> (TempDir, PathBuf) {
        let path = self.path();
        tokio::spawn(async move {
            while let Some((request, answer)) = self.asked.recv().await {
                let said = match request {
                    Request::Status {} => Response::Status(Box::new(fixture::trio().report())),
                    other => Response::said(format!("{other:?}")),
                };
                let _ = answer.send(said);
            }
        });
        (self.dir, path)
    }
}

async fn up() -> Up {
    let dir = TempDir::new().expect("a directory");
    let server = Server::bind(&dir.path().join("mainstay.sock")).await.expect("the socket is free");
    let (sender, asked) = mpsc::channel(4);
    let server = tokio::spawn(server.run(sender));
    Up { dir, asked, server }
}

async fn line_of(stream: &mut UnixStream) -> Response {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.expect("an answer");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

fn refusal(answer: Response) -> RefusalKind {
    match answer {
        Response::Refused(refused) => refused.kind,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_question_is_answered_and_the_file_has_its_mode_and_goes_at_the_end() {
    let up = up().await;
    let mode = std::fs::metadata(up.path()).expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, MODE);
    let Up { dir, asked, server } = up;
    let path = dir.path().join("mainstay.sock");
    let (_dir, _) = Up { dir, asked, server: tokio::spawn(async {}) }.answering();
    let answer = client::ask(&path, &Request::Status {}).await.expect("an answer");
    assert!(matches!(answer, Response::Status(report) if report.node == "n1"));
    let change = client::ask(&path, &Request::Leave { node: "n3".to_owned() }).await.expect("an answer");
    assert!(matches!(change, Response::Done(_)));
    server.abort();
    let _ = server.await;
    assert!(!path.exists());
    assert!(matches!(client::ask(&path, &Request::Status {}).await, Err(ClientError::NoAgent { .. })));
}

#[tokio::test]
async fn one_connection_may_ask_again_also_after_nonsense() {
    let (_dir, path) = up().await.answering();
    let mut stream = UnixStream::connect(&path).await.expect("connects");
    for _ in 0..3 {
        stream.write_all(b"{\"ask\":\"status\"}\n").await.expect("writes");
        assert!(matches!(line_of(&mut stream).await, Response::Status(_)));
        stream.write_all(b"{\"ask\":\"dance\"}\n").await.expect("writes");
        assert_eq!(refusal(line_of(&mut stream).await), RefusalKind::Wrong);
        stream.write_all(b"\xff\xfe\n").await.expect("writes");
        assert_eq!(refusal(line_of(&mut stream).await), RefusalKind::Wrong);
    }
}

#[tokio::test]
async fn a_line_without_end_is_cut_and_the_connection_closed() {
    let (_dir, path) = up().await.answering();
    let mut stream = UnixStream::connect(&path).await.expect("connects");
    stream.write_all(&vec![b'x'; MAX_REQUEST]).await.expect("writes");
    assert_eq!(refusal(line_of(&mut stream).await), RefusalKind::Wrong);
    assert_eq!(stream.read(&mut [0; 8]).await.expect("closed"), 0);
    assert!(client::ask(&path, &Request::Status {}).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_guest_who_says_nothing_is_shown_out() {
    let (_dir, path) = up().await.answering();
    let mut stream = UnixStream::connect(&path).await.expect("connects");
    stream.write_all(b"{\"ask\":").await.expect("writes");
    let before = tokio::time::Instant::now();
    assert_eq!(stream.read(&mut [0; 8]).await.expect("closed"), 0);
    assert!(before.elapsed() >= IDLE && before.elapsed() < IDLE * 2);
}

#[tokio::test]
async fn guests_beyond_the_limit_are_told_so() {
    let (_dir, path) = up().await.answering();
    let mut guests = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = UnixStream::connect(&path).await.expect("connects");
        stream.write_all(b"{\"ask\":\"status\"}\n").await.expect("writes");
        assert!(matches!(line_of(&mut stream).await, Response::Status(_)));
        guests.push(stream);
    }
    let answer = client::ask(&path, &Request::Status {}).await.expect("an answer");
    assert_eq!(refusal(answer), RefusalKind::NotNow);
    guests.pop();
    for attempt in 0.. {
        if let Response::Status(_) = client::ask(&path, &Request::Status {}).await.expect("an answer") {
            break;
        }
        assert!(attempt < 100, "the place was never given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_answer_is_answered_for() {
    let mut up = up().await;
    let path = up.path();
    for request in [Request::Status {}, Request::Switchover { group: None, to: None }] {
        let patience = request.patience();
        let before = tokio::time::Instant::now();
        let asking = tokio::spawn({
            let (path, request) = (path.clone(), request.clone());
            async move { client::ask(&path, &request).await }
        });
        let (got, kept) = up.asked.recv().await.expect("the request comes");
        assert_eq!(got, request);
        let answer = asking.await.expect("no panic").expect("an answer");
        assert!(before.elapsed() >= patience && before.elapsed() <= patience + Duration::from_millis(500));
        let wanted = if request.changes() { RefusalKind::Unfinished } else { RefusalKind::NotNow };
        assert_eq!(refusal(answer), wanted);
        drop(kept);
    }
}

#[tokio::test]
async fn a_full_or_ended_loop_is_said_at_once() {
    let mut up = up().await;
    let path = up.path();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let mut stream = UnixStream::connect(&path).await.expect("connects");
        stream.write_all(b"{\"ask\":\"status\"}\n").await.expect("writes");
        waiting.push(stream);
    }
    let mut full = false;
    for _ in 0..100 {
        let asked = tokio::time::timeout(Duration::from_millis(100), client::ask(&path, &Request::Members {})).await;
        if let Ok(answer) = asked {
            full = refusal(answer.expect("an answer")) == RefusalKind::NotNow;
            break;
        }
    }
    assert!(full, "five requests fit into a queue of four");
    let (_, answer) = up.asked.recv().await.expect("the first request");
    drop(answer);
    assert_eq!(refusal(line_of(&mut waiting[0]).await), RefusalKind::NotNow);
}

#[tokio::test]
async fn the_server_ends_with_the_loop() {
    let Up { dir, asked, server } = up().await;
    drop(asked);
    tokio::time::timeout(Duration::from_secs(5), server).await.expect("it ends").expect("no panic");
    assert!(!dir.path().join("mainstay.sock").exists());
}

#[tokio::test]
async fn a_second_agent_is_refused_and_the_first_keeps_its_socket() {
    let (_dir, path) = up().await.answering();
    let second = Server::bind(&path).await.expect_err("it is taken");
    assert!(matches!(second, ServerError::Taken { pid: Some(pid), .. } if pid == std::process::id()), "{second}");
    assert!(second.to_string().contains("another agent (pid"), "{second}");
    assert!(client::ask(&path, &Request::Status {}).await.is_ok());
}

#[tokio::test]
async fn a_socket_that_answers_is_left_alone_even_without_its_lock() {
    let (_dir, path) = up().await.answering();
    std::fs::remove_file(path.with_extension("sock.lock")).expect("the lock file is there");
    assert!(matches!(Server::bind(&path).await, Err(ServerError::Taken { pid: None, .. })));
    assert!(client::ask(&path, &Request::Status {}).await.is_ok());
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("mainstay.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
    assert!(path.exists());
    let server = Server::bind(&path).await.expect("the stale one is removed");
    drop(server);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_is_no_socket_is_never_removed() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("mainstay.sock");
    std::fs::write(&path, "precious").expect("writes");
    let error = Server::bind(&path).await.expect_err("it is a file");
    assert!(matches!(error, ServerError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "precious");
    let nowhere = Server::bind(Path::new("/nonexistent/x/mainstay.sock")).await.expect_err("no directory");
    assert!(matches!(nowhere, ServerError::NoDirectory { .. }), "{nowhere}");
    let long = dir.path().join("x".repeat(120));
    let error = Server::bind(&long).await.expect_err("too long");
    assert!(error.to_string().contains("too long"), "{error}");
}

#[tokio::test]
async fn the_drop_leaves_a_successors_socket() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("mainstay.sock");
    let server = Server::bind(&path).await.expect("binds");
    std::fs::remove_file(&path).expect("removes");
    let _other = std::os::unix::net::UnixListener::bind(&path).expect("binds");
    drop(server);
    assert!(path.exists());
}

#[tokio::test(start_paused = true)]
async fn a_client_gives_up_on_an_agent_that_is_stopped() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("mainstay.sock");
    let _frozen = std::os::unix::net::UnixListener::bind(&path).expect("binds");
    let error = client::ask(&path, &Request::Status {}).await.expect_err("nobody answers");
    assert!(matches!(error, ClientError::Silent { .. }), "{error}");
    assert!(error.to_string().contains("within 3 s"), "{error}");
    assert!(!error.nobody());
}

#[tokio::test]
async fn a_client_says_what_it_cannot_read() {
    for (said, wanted) in [("", "went away"), ("{\"answer\":\"sta", "broken off"), ("{}\n", "cannot read")] {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().join("mainstay.sock");
        let listener = tokio::net::UnixListener::bind(&path).expect("binds");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut line = [0; 64];
            let _ = stream.read(&mut line).await;
            let _ = stream.write_all(said.as_bytes()).await;
        });
        let error = client::ask(&path, &Request::Status {}).await.expect_err("no answer");
        assert!(error.to_string().contains(wanted), "{error}");
    }
}
