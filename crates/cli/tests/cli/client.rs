//! The HTTP client against a tiny server that misbehaves on purpose.

use potluck_cli::client::Client;
use potluck_cli::error::{CliError, Exit};
use potluck_cli::stop::Stop;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use ureq::http::Method;

/// One request as the server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    line: String,
    headers: Vec<String>,
    body: Vec<u8>,
}

/// Answers each request in turn with the next script entry; an empty one closes the connection without an answer.
fn serve(script: Vec<String>) -> (String, Arc<Mutex<Vec<Seen>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    std::thread::spawn(move || {
        for answer in script {
            let (mut stream, _) = listener.accept().unwrap();
            let request = read(&mut stream);
            log.lock().unwrap().push(request);
            // The client may have gone already.
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    (address, seen)
}

fn read(stream: &mut TcpStream) -> Seen {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line.to_ascii_lowercase());
    }
    let length =
        lines.iter().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let line = lines.remove(0);
    Seen { line, headers: lines, body }
}

fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

fn client(address: &str) -> Client {
    Client::new(address, Some("secret".into()), Stop::default())
        .unwrap()
        .with_patience(Duration::from_secs(20), Duration::from_secs(20))
}

#[test]
fn dropped_connections_and_busy_answers_are_tried_again() {
    let script =
        vec![String::new(), answer("503 Busy", ""), answer("502 Bad", "<html>"), answer("200 OK", "7")];
    let (address, seen) = serve(script);
    let mut troubles = Vec::new();
    let value: u32 = client(&address).get("/x", |trouble| troubles.push(trouble.cause)).unwrap();
    assert_eq!(value, 7);
    assert_eq!(troubles.len(), 3, "{troubles:?}");
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|request| request.line == "get /x http/1.1"));
    assert!(seen[0].headers.contains(&"authorization: bearer secret".to_owned()), "{:?}", seen[0].headers);
}

#[test]
fn refusals_are_not_repeated_and_carry_code_and_hint() {
    let body = r#"{"code":"not_finite","message":"A holds NaN at row 3, column 4","hint":"clean it"}"#;
    let (address, seen) = serve(vec![answer("422 No", body)]);
    let error = client(&address).get::<u32>("/x", |_| {}).unwrap_err();
    assert_eq!(error.exit(), Exit::RefusedInput);
    assert_eq!(error.code(), "not_finite");
    assert_eq!(error.lines(), "error: A holds NaN at row 3, column 4\nhint: clean it");
    assert_eq!(seen.lock().unwrap().len(), 1);
    for (status, exit) in [("401 No", Exit::NotAllowed), ("404 No", Exit::NotFound), ("500 No", Exit::Failed)]
    {
        let (address, _) = serve(vec![answer(status, "")]);
        assert_eq!(client(&address).get::<u32>("/x", |_| {}).unwrap_err().exit(), exit, "{status}");
    }
}

#[test]
fn an_answer_of_another_kind_is_an_error_and_no_panic() {
    let (address, _) = serve(vec![answer("200 OK", "<html>not a relay</html>")]);
    let error = client(&address).get::<u32>("/x", |_| {}).unwrap_err();
    assert!(matches!(error, CliError::Answer { .. }), "{error}");
}

#[test]
fn a_relay_that_is_not_there_is_said_soon_and_after_an_answer_waited_for() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let impatient = Client::new(&format!("http://{unused}"), None, Stop::default())
        .unwrap()
        .with_patience(Duration::from_millis(300), Duration::from_hours(1));
    let error = impatient.get::<u32>("/x", |_| {}).unwrap_err();
    assert_eq!(error.exit(), Exit::Unreachable, "{error}");
    // Once it has answered, the longer patience counts: it is away for three requests and comes back.
    let (address, _) = serve(vec![
        answer("200 OK", "1"),
        String::new(),
        String::new(),
        String::new(),
        answer("200 OK", "2"),
    ]);
    let patient = Client::new(&address, None, Stop::default())
        .unwrap()
        .with_patience(Duration::ZERO, Duration::from_secs(20));
    assert_eq!(patient.get::<u32>("/x", |_| {}).unwrap(), 1);
    assert_eq!(patient.get::<u32>("/x", |_| {}).unwrap(), 2);
}

#[test]
fn an_upload_starts_over_from_its_beginning() {
    let (address, seen) = serve(vec![String::new(), answer("200 OK", "\"id\"")]);
    let bytes = b"0123456789".repeat(1000);
    let id: String = client(&address)
        .upload(&Method::POST, "/m", bytes.len() as u64, || Ok(bytes.as_slice()), |_| {})
        .unwrap();
    assert_eq!(id, "id");
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|request| request.body == bytes));
}

#[test]
fn a_repeated_creation_carries_the_same_key_and_body() {
    let (address, seen) = serve(vec![String::new(), answer("201 Created", "5")]);
    let body = serde_json::json!({ "name": "x" });
    let headers = [("idempotency-key", "k1")];
    let made: u32 =
        client(&address).send_json(&Method::POST, "/jobs", &headers, Some(&body), |_| {}).unwrap();
    assert_eq!(made, 5);
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].headers.contains(&"idempotency-key: k1".to_owned()));
    assert_eq!(seen[0].body, br#"{"name":"x"}"#);
}

#[test]
fn a_request_to_stop_ends_the_waiting() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let stop = Stop::default();
    let waiting = Client::new(&format!("http://{unused}"), None, stop.clone())
        .unwrap()
        .with_patience(Duration::from_hours(1), Duration::from_hours(1));
    let error = waiting
        .get::<u32>("/x", |_| {
            stop.request();
        })
        .unwrap_err();
    assert_eq!(error.exit(), Exit::Interrupted);
}
