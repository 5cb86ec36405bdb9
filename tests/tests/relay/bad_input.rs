//! What submitters may send, and what they may not: every legal `.npy` file gives the right product, everything
//! else a clear refusal before any work is handed out.

use potluck_cli::client::Client;
use potluck_cli::error::CliError;
use potluck_cli::npy::NpyFile;
use potluck_cli::stop::Stop;
use potluck_cli::submit;
use potluck_proto::Preset;
use potluck_tests::npy::{self, file, header, raw};
use potluck_tests::{Answer, Api, TestRelay, Volunteer};
use potluck_types::limits::{MAX_DIMENSION, MAX_MATRIX_BYTES};
use potluck_types::{DType, MatmulShape};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// Time for one small product on a busy machine.
const PRODUCT_LIMIT: Duration = Duration::from_secs(60);

/// Every element type, in every byte order that numpy writes.
const LEGAL: [&str; 24] = [
    "|b1", "|i1", "|u1", "<i2", ">i2", "<u2", ">u2", "<i4", ">i4", "<u4", ">u4", "<i8", ">i8", "<u8", ">u8",
    "<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "=f4", "=i2", "<i1",
];

fn shape(m: u32, k: u32, n: u32) -> MatmulShape {
    MatmulShape { m, k, n }
}

/// Values that the type holds exactly.
fn values(descr: &str, seed: u64, count: usize) -> Vec<f64> {
    let (low, high) = match &descr[1..] {
        "b1" => (0, 1),
        kind if kind.starts_with('u') => (0, 100),
        _ => (-100, 100),
    };
    npy::integers(seed, low, high).take(count).collect()
}

#[test]
fn every_element_type_byte_order_memory_order_and_version_is_read_right() {
    let relay = TestRelay::start();
    let volunteer = Volunteer::start(&relay.api.url, 1, Preset::Full);
    let of = shape(5, 7, 3);
    let mut jobs = Vec::new();
    // `<i1` is not what numpy writes, but its reader takes it.
    for (i, descr) in LEGAL.into_iter().enumerate() {
        for fortran in [false, true] {
            let version = 1 + (i as u8 + u8::from(fortran)) % 3;
            let transposed = i % 2 == 1;
            let (a, b) = (values(descr, i as u64, 35), values(descr, 100 + i as u64, 21));
            let b_shape = if transposed { [3, 7] } else { [7, 3] };
            let a_file = file(version, descr, fortran, &[5, 7], &a);
            let b_file = file(4 - version, descr, !fortran, &b_shape, &b);
            let id = relay.api.submit(&a_file, &b_file, &json!({ "transpose_b": transposed, "name": descr }));
            jobs.push((descr, fortran, id, npy::product(of, &a, &b, transposed)));
        }
    }
    for (descr, fortran, id, expected) in jobs {
        let (shape, c) = relay.api.result(&id, PRODUCT_LIMIT);
        assert_eq!(shape, [5, 3]);
        assert_eq!(c, expected, "{descr}, Fortran order: {fortran}");
    }
    // int8 reads all of them too, where the values fit.
    for descr in ["<f8", ">i8", "|b1", "<f2"] {
        let (a, b) = (values(descr, 7, 35), values(descr, 8, 21));
        let (a_file, b_file) = (file(1, descr, true, &[5, 7], &a), file(2, descr, false, &[7, 3], &b));
        let id = relay.api.submit(&a_file, &b_file, &json!({ "dtype": "int8" }));
        assert_eq!(
            relay.api.result(&id, PRODUCT_LIMIT).1,
            npy::product(of, &a, &b, false),
            "int8 from {descr}"
        );
    }
    volunteer.end();
}

#[test]
fn shapes_from_one_element_to_primes() {
    let relay = TestRelay::start();
    let volunteer = Volunteer::start(&relay.api.url, 1, Preset::Full);
    let primes = [shape(1009, 517, 263), shape(31, 4099, 37)];
    let small = [shape(1, 1, 1), shape(1, 777, 1), shape(257, 1, 65), shape(1, 300, 129), shape(131, 300, 1)];
    for of in small.into_iter().chain(primes) {
        for dtype in [DType::F32, DType::Int8] {
            let (m, k, n) = (of.m as usize, of.k as usize, of.n as usize);
            let draw = |seed, count| -> Vec<f64> {
                match dtype {
                    DType::F32 => {
                        npy::uniform(seed).map(|x| f64::from(x as f32 * 2.0 - 1.0)).take(count).collect()
                    }
                    DType::Int8 => npy::integers(seed, -128, 127).take(count).collect(),
                }
            };
            let (a, b) = (draw(m as u64, m * k), draw(n as u64 + 9, k * n));
            let descr = if dtype == DType::F32 { "<f4" } else { "|i1" };
            let (a_file, b_file) = (file(1, descr, false, &[m, k], &a), file(1, descr, false, &[k, n], &b));
            let id = relay.api.submit(&a_file, &b_file, &json!({ "dtype": dtype.name() }));
            let (found, c) = relay.api.result(&id, PRODUCT_LIMIT);
            assert_eq!(found, [u64::from(of.m), u64::from(of.n)]);
            let wrong = npy::first_wrong(of, dtype, [&a, &b], false, &c);
            assert_eq!(wrong, None, "{of:?} {dtype}: position, found, expected");
            let job = relay.api.job(&id);
            assert_eq!(job["rejections"], json!([]), "an honest volunteer is never rejected");
        }
    }
    // Vectors: one row as A, one column as B; transposed B: one row.
    let (x, y) = (values("<f4", 1, 40), values("<f4", 2, 40));
    let dot = npy::product(shape(1, 40, 1), &x, &y, false);
    let [x_file, y_file] = [&x, &y].map(|x| file(1, "<f4", false, &[40], x));
    for transposed in [false, true] {
        let id = relay.api.submit(&x_file, &y_file, &json!({ "transpose_b": transposed }));
        assert_eq!(relay.api.result(&id, PRODUCT_LIMIT), (vec![1, 1], dot.clone()));
    }
    let column = file(1, "<f4", false, &[40, 1], &x);
    let id = relay.api.submit(&column, &file(1, "<f4", true, &[1, 40], &y), &json!({}));
    assert_eq!(relay.api.result(&id, PRODUCT_LIMIT).1, npy::product(shape(40, 1, 40), &x, &y, false));
    volunteer.end();
}

/// Asserts a refusal: status, stable code, and parts of message and hint.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str, message: &str, hint: &str) {
    let said = answer.json();
    assert_eq!((answer.status, answer.text("code").as_str()), (status, code), "{said}");
    assert!(answer.text("message").contains(message), "{message:?} is not in {said}");
    assert!(answer.text("hint").contains(hint), "{hint:?} is not in {said}");
}

/// Asserts that nobody was given work although a volunteer waits for it, and ends it.
fn nothing_was_handed_out(relay: &TestRelay, volunteer: Volunteer) {
    assert_eq!(relay.api.get("/api/v1/jobs").json(), json!([]));
    // A request later than every refusal: had any made a job, its picture would have gone out before.
    assert_eq!(relay.api.metric("consenting_sessions"), 1);
    assert_eq!(relay.api.metric("leases_given_total"), 0);
    assert_eq!(volunteer.end().accepted, 0);
}

/// A volunteer that waits for work.
fn waiting_volunteer(relay: &TestRelay) -> Volunteer {
    let volunteer = Volunteer::start(&relay.api.url, 1, Preset::Full);
    potluck_tests::wait_until("a volunteer waits", PRODUCT_LIMIT, || {
        relay.api.metric("consenting_sessions") == 1
    });
    volunteer
}

#[test]
fn files_that_are_no_matrices_are_refused_when_they_are_uploaded() {
    let relay = TestRelay::start();
    let volunteer = waiting_volunteer(&relay);
    let check = |file: &[u8], message: &str, hint: &str| {
        refused(&relay.api.upload(file), 422, "bad_matrix", message, hint);
    };
    let good = file(1, "<f4", false, &[2, 3], &[0.0; 6]);
    check(&[], "the file is empty", "truncated");
    check(b"PK\x03\x04 this is an .npz", "not a .npy file", "numpy.save");
    check(&good[..5], "not a .npy file", "numpy.save");
    check(&good[..40], "the file ends in it", "numpy.save");
    check(&good[..good.len() - 1], "promises 24 bytes of elements, the file has 23", "truncated");
    check(&[&good[..], &[0]].concat(), "promises 24 bytes of elements, the file has 25", "write it again");
    let mut newer = good.clone();
    newer[6] = 4;
    check(&newer, "version 4.0 is not known", "numpy.save");
    // Lengths that are lies cost nothing: neither the header's own nor that of the data.
    let long_header = [&b"\x93NUMPY\x02\x00"[..], &u32::MAX.to_le_bytes()].concat();
    check(&long_header, "the header has 4294967295 bytes; the limit is", "numpy.save");
    let most = MAX_DIMENSION as usize;
    let promise = header(">f8", false, &[most, most]);
    check(
        &raw(1, &promise, &[0; 16]),
        "promises 8796093022208 bytes of elements, the file has 16",
        "truncated",
    );
    let too_long = header("|i1", false, &[most + 1, 1]);
    check(
        &raw(1, &too_long, &[0; 16]),
        "dimension of 1048577 exceeds the limit of 1048576",
        "split the matrix",
    );
    let overflow = "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 2), }";
    check(&raw(1, overflow, &[]), "shape is no tuple of numbers", "numpy.save");
    for (dimensions, name) in [(&[][..], "0"), (&[2, 2, 2], "3")] {
        let text = header("<f4", false, dimensions);
        check(&raw(1, &text, &[0; 32]), &format!("an array of {name} dimensions"), "reshape");
    }
    check(&raw(1, &header("<f4", false, &[0, 5]), &[]), "empty: its shape is [0, 5]", "at least one row");
    check(&raw(1, &header("<f4", false, &[0]), &[]), "empty: its shape is [0]", "at least one row");
    for descr in ["<c8", "|O", "<U4", "|S4", "<M8[ns]", "<f16", "|V8"] {
        let text = header(descr, false, &[1]);
        check(&raw(1, &text, &[0; 8]), &format!("elements of type {descr:?}"), "astype");
    }
    let structured = "{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1,), }";
    check(&raw(1, structured, &[0; 4]), "elements of type", "astype");
    for damaged in ["{'descr': '<f4'", "{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}", "{}", "[]", ""]
    {
        check(&raw(3, damaged, &[0; 4]), "the header is damaged", "numpy.save");
    }
    nothing_was_handed_out(&relay, volunteer);
    let files = std::fs::read_dir(relay.data.path().join("matrices")).unwrap().count();
    assert_eq!(files, 0, "a refused file stays on the disk");
}

/// Sends a request by hand, closes the way out, and reads what comes back. The relay may answer, and hang up, before
/// it has read everything: that is no mistake.
fn by_hand(api: &Api, path: &str, head: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(api.url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PRODUCT_LIMIT)).unwrap();
    let authorization = api.authorization.as_deref().unwrap_or_default();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: {authorization}\r\n{head}\r\n\r\n"
    )
    .unwrap();
    drop(stream.write_all(body).and_then(|()| stream.shutdown(Shutdown::Write)));
    let mut text = Vec::new();
    drop(stream.read_to_end(&mut text));
    let split = text.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(text.len());
    let status = String::from_utf8_lossy(&text[..split]);
    let status = status.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, body: text.get(split + 4..).unwrap_or_default().to_vec() }
}

#[test]
fn uploads_that_are_too_large_or_end_early_are_refused_and_leave_nothing() {
    let relay = TestRelay::start();
    let length = MAX_MATRIX_BYTES + 1;
    let answer = by_hand(&relay.api, "/api/v1/matrices", &format!("content-length: {length}"), b"\x93NUMPY");
    refused(&answer, 413, "too_large", &MAX_MATRIX_BYTES.to_string(), "split");
    let answer = by_hand(&relay.api, "/api/v1/matrices", "content-length: 99999999999999999999999", b"");
    assert_eq!(answer.status, 400, "a length that is no number of bytes is no HTTP");
    let answer = by_hand(&relay.api, "/api/v1/matrices", "transfer-encoding: chunked", b"5\r\n\x93NUM");
    assert!(answer.status == 400 || answer.body.is_empty(), "{answer:?}");
    let answer = by_hand(&relay.api, "/api/v1/matrices", "content-length: 1000", b"\x93NUMPY");
    assert!(answer.status == 400 || answer.body.is_empty(), "{answer:?}");
    let matrices = relay.data.path().join("matrices");
    potluck_tests::wait_until("broken uploads are removed", PRODUCT_LIMIT, || {
        std::fs::read_dir(&matrices).unwrap().count() == 0
    });
    assert_eq!(relay.api.get("/healthz").status, 200);
}

#[test]
fn a_refused_upload_says_why_however_large_it_is() {
    let relay = TestRelay::start();
    // More than the sockets' buffers hold: a relay that hangs up in the middle would be all that the client sees.
    let path = relay.data.path().join("large.npy");
    std::fs::write(&path, raw(1, &header("|i1", false, &[8192, 8192]), &vec![0; 8192 * 8192])).unwrap();
    let client = Client::new(&relay.api.url, Some("wrong".into()), Stop::default()).unwrap();
    let refused = submit::upload(&client, &NpyFile::open(&path).unwrap()).unwrap_err();
    assert!(matches!(&refused, CliError::Api(api) if api.status == 401), "{refused}");
}

/// The answer to a job made of two matrices.
fn job_of(api: &Api, a: &[u8], b: &[u8], more: &Value) -> Answer {
    let ids = [a, b].map(|file| {
        let answer = api.upload(file);
        assert_eq!(answer.status, 201, "{}", answer.json());
        answer.text("id")
    });
    let mut job = json!({ "kind": "matmul", "a": ids[0], "b": ids[1] });
    more.as_object().into_iter().flatten().for_each(|(key, value)| job[key] = value.clone());
    api.create(&job)
}

#[test]
fn shapes_that_do_not_match_and_products_that_are_too_large() {
    let relay = TestRelay::start();
    let volunteer = waiting_volunteer(&relay);
    let zeros = |shape: &[usize]| file(1, "|i1", false, shape, &vec![0.0; shape.iter().product()]);
    for (a, b, transposed, message) in [
        (&[3, 4][..], &[5, 2][..], false, "A is 3 x 4, B is 5 x 2"),
        (&[3, 4], &[4, 2], true, "A is 3 x 4, B is 4 x 2"),
        (&[3, 4], &[2, 4], false, "A is 3 x 4, B is 2 x 4"),
        (&[4], &[5], false, "A is 1 x 4, B is 5 x 1"),
        (&[4], &[5], true, "A is 1 x 4, B is 1 x 5"),
        (&[4, 1], &[4], false, "A is 4 x 1, B is 4 x 1"),
    ] {
        let answer = job_of(&relay.api, &zeros(a), &zeros(b), &json!({ "transpose_b": transposed }));
        refused(&answer, 422, "shape_mismatch", message, "as many columns as B has rows");
    }
    let most = MAX_DIMENSION as usize;
    let answer = job_of(&relay.api, &zeros(&[most, 1]), &zeros(&[1, most]), &json!({}));
    refused(&answer, 422, "too_large", "units; the limit is", "split the product");
    nothing_was_handed_out(&relay, volunteer);
}

#[test]
fn values_that_cannot_be_computed_are_refused_with_the_position_of_the_first() {
    let relay = TestRelay::start();
    let volunteer = waiting_volunteer(&relay);
    // Two slices of K, several units of rows and columns: positions are those of the uploaded matrix all the same.
    let (m, k, n) = (70_usize, 2100_usize, 300_usize);
    let good = |rows: usize, cols: usize| vec![1.0; rows * cols];
    let with = |rows: usize, cols: usize, bad: &[(usize, usize, f64)]| {
        let mut values = good(rows, cols);
        bad.iter().for_each(|&(row, col, value)| values[row * cols + col] = value);
        values
    };
    let (a, b) = (file(1, "|i1", false, &[m, k], &good(m, k)), file(1, "|i1", false, &[k, n], &good(k, n)));
    let b_transposed = file(1, "|i1", false, &[n, k], &good(k, n));
    let nan = f64::NAN;
    let inf = f64::INFINITY;
    // The first in the order of rows, not of the relay's reading: the second one lies in an earlier slice or panel.
    let in_a: [(&str, &[(usize, usize, f64)], &str); 4] = [
        ("<f4", &[(0, 0, nan)], "matrix A holds NaN at row 0, column 0"),
        ("<f4", &[(3, 2099, inf), (69, 5, nan)], "matrix A holds inf at row 3, column 2099"),
        (">f8", &[(0, 7, -inf), (1, 0, nan)], "matrix A holds -inf at row 0, column 7"),
        ("<f2", &[(69, 2099, nan)], "matrix A holds NaN at row 69, column 2099"),
    ];
    for (descr, bad, message) in in_a {
        for fortran in [false, true] {
            let bad_file = file(2, descr, fortran, &[m, k], &with(m, k, bad));
            for dtype in ["f32", "int8"] {
                let answer = job_of(&relay.api, &bad_file, &b, &json!({ "dtype": dtype }));
                refused(&answer, 422, "not_finite", message, "numpy.nan_to_num");
            }
        }
    }
    let in_b: [(&[(usize, usize, f64)], &str); 3] = [
        (&[(0, 299, nan), (2099, 0, inf)], "matrix B holds NaN at row 0, column 299"),
        (&[(5, 100, inf), (6, 3, nan)], "matrix B holds inf at row 5, column 100"),
        (&[(2099, 299, nan)], "matrix B holds NaN at row 2099, column 299"),
    ];
    for (bad, message) in in_b {
        for fortran in [false, true] {
            let bad_file = file(1, "<f4", fortran, &[k, n], &with(k, n, bad));
            refused(&job_of(&relay.api, &a, &bad_file, &json!({})), 422, "not_finite", message, "nan_to_num");
        }
    }
    // A transposed B is named as it was uploaded: N x K.
    let bad_file = file(1, "<f4", false, &[n, k], &with(n, k, &[(299, 1, nan), (7, 2000, inf)]));
    let answer = job_of(&relay.api, &a, &bad_file, &json!({ "transpose_b": true }));
    refused(&answer, 422, "not_finite", "matrix B holds inf at row 7, column 2000", "nan_to_num");
    let vector = file(1, "<f4", false, &[k], &with(1, k, &[(0, 2050, nan), (0, 2060, inf)]));
    let answer = job_of(&relay.api, &a, &vector, &json!({}));
    refused(&answer, 422, "not_finite", "matrix B holds NaN at row 2050, column 0", "nan_to_num");
    // Finite in f64, not in f32.
    let large = file(1, "<f8", false, &[m, k], &with(m, k, &[(2, 3, -1e300)]));
    let answer = job_of(&relay.api, &large, &b, &json!({}));
    refused(&answer, 422, "out_of_range", "at row 2, column 3, beyond the range of f32", "scale");
    for (descr, value, shown) in
        [("<i2", 128.0, "128"), (">i4", -129.0, "-129"), ("<f4", 0.5, "0.5"), ("<u8", 255.0, "255")]
    {
        let file = file(1, descr, true, &[n, k], &with(n, k, &[(299, 0, value), (4, 2090, value)]));
        let answer = job_of(&relay.api, &a, &file, &json!({ "dtype": "int8", "transpose_b": true }));
        let message = format!("matrix B holds {shown} at row 4, column 2090; int8 needs whole numbers");
        refused(&answer, 422, "not_int8", &message, "round and clip");
    }
    assert_eq!(relay.api.upload(&b_transposed).status, 201);
    nothing_was_handed_out(&relay, volunteer);
}

#[test]
fn the_token_is_needed_for_everything_a_submitter_does() {
    let relay = TestRelay::start();
    let volunteer = waiting_volunteer(&relay);
    let good = relay.api.authorization.clone().unwrap();
    let token = good.trim_start_matches("Bearer ");
    let wrong = [None, Some(""), Some("Bearer "), Some("Bearer 00"), Some(token), Some("Basic dTpw")];
    let long = format!("Bearer {}", "0".repeat(4096));
    let id = "00".repeat(16);
    let requests = [
        ("POST", "/api/v1/matrices".to_owned()),
        ("POST", "/api/v1/jobs".to_owned()),
        ("GET", "/api/v1/jobs".to_owned()),
        ("GET", format!("/api/v1/jobs/{id}")),
        ("GET", format!("/api/v1/jobs/{id}/result")),
        ("DELETE", format!("/api/v1/jobs/{id}")),
    ];
    for authorization in wrong.into_iter().chain([Some(long.as_str())]) {
        let stranger = relay.api.with_authorization(authorization);
        for (method, path) in &requests {
            let body: &[u8] = if *method == "POST" { b"{}" } else { b"" };
            let answer = stranger.send(method, path, &[("content-type", "application/json")], body);
            refused(&answer, 401, "token_needed", "token is missing or wrong", "Authorization: Bearer");
        }
        for open in ["/healthz", "/metrics", "/.well-known/potluck.json", "/api/openapi.json", "/"] {
            assert_eq!(stranger.get(open).status, 200, "{open} is for everybody");
        }
    }
    nothing_was_handed_out(&relay, volunteer);
}

#[test]
fn jobs_that_do_not_make_sense_are_refused() {
    let relay = TestRelay::start();
    let volunteer = waiting_volunteer(&relay);
    let api = &relay.api;
    let id = api.upload(&file(1, "<f4", false, &[2, 2], &[1.0; 4])).text("id");
    let with = |more: Value| {
        let mut job = json!({ "kind": "matmul", "a": id, "b": id });
        more.as_object().into_iter().flatten().for_each(|(key, value)| job[key] = value.clone());
        api.create(&job)
    };
    refused(&with(json!({ "tranpose_b": true })), 400, "bad_request", "tranpose_b", "openapi");
    refused(&with(json!({ "kind": "train" })), 400, "bad_request", "\"train\"", "matmul");
    refused(&with(json!({ "dtype": "f64" })), 400, "bad_request", "f64", "int8");
    refused(&with(json!({ "dtype": 7 })), 400, "bad_request", "dtype", "openapi");
    refused(&with(json!({ "transpose_b": "yes" })), 400, "bad_request", "transpose_b", "openapi");
    for name in [String::new(), "x".repeat(81), "two\nlines".to_owned()] {
        refused(&with(json!({ "name": name })), 400, "bad_request", "1 to 80 printable", "name");
    }
    refused(&with(json!({ "a": "digits.npy" })), 400, "bad_request", "digits.npy", "POST /api/v1/matrices");
    refused(&with(json!({ "b": "../../token" })), 400, "bad_request", "token", "POST /api/v1/matrices");
    let unknown = "0".repeat(64);
    refused(&with(json!({ "b": unknown })), 404, "unknown_matrix", &unknown, "POST /api/v1/matrices");
    let post = |headers: &[(&str, &str)], body: &[u8]| api.send("POST", "/api/v1/jobs", headers, body);
    let is_json = [("content-type", "application/json")];
    refused(&post(&is_json, b"{\"kind\": \"matmul\""), 400, "bad_request", "JSON", "openapi");
    refused(&post(&is_json, b"{}"), 400, "bad_request", "kind", "openapi");
    refused(&post(&[("content-type", "text/plain")], b"{}"), 400, "bad_request", "Content-Type", "openapi");
    let huge = |bytes: usize| format!("{{\"kind\": \"{}\"}}", "x".repeat(bytes));
    refused(&post(&is_json, huge(64 << 10).as_bytes()), 400, "bad_request", "length limit", "openapi");
    // Of far too much the relay reads no more than its limit; the client may see only that it hung up.
    let far_too_much = huge(1 << 20);
    let head = format!("content-type: application/json\r\ncontent-length: {}", far_too_much.len());
    let answer = by_hand(api, "/api/v1/jobs", &head, far_too_much.as_bytes());
    assert!(answer.status == 400 || answer.body.is_empty(), "{answer:?}");
    let deep = "[".repeat(60_000);
    refused(&post(&is_json, deep.as_bytes()), 400, "bad_request", "", "openapi");

    let nowhere = "ab".repeat(16);
    for job in [nowhere.as_str(), "x", "..%2f..%2ftoken", "%ff%fe"] {
        for (method, tail) in [("GET", ""), ("GET", "/result"), ("DELETE", "")] {
            let answer = api.send(method, &format!("/api/v1/jobs/{job}{tail}"), &[], &[]);
            refused(&answer, 404, "not_found", "no such job", "GET /api/v1/jobs");
        }
    }
    for query in ["wait_ms=soon", "wait_ms=-1", "seen=99999999999"] {
        let answer = api.get(&format!("/api/v1/jobs/{nowhere}?{query}"));
        refused(&answer, 400, "bad_request", "", "whole number");
    }
    nothing_was_handed_out(&relay, volunteer);
}

#[test]
fn a_repeated_request_makes_one_job() {
    let relay = TestRelay::start();
    let api = &relay.api;
    let file = file(1, "<f4", false, &[2, 2], &[1.0; 4]);
    let (id, again) = (api.upload(&file).text("id"), api.upload(&file).text("id"));
    assert_eq!(id, again, "the same file is the same matrix");
    let job = json!({ "kind": "matmul", "a": id, "b": id }).to_string();
    let post = |key: &str, body: &str| {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        api.send("POST", "/api/v1/jobs", &headers, body.as_bytes())
    };
    let first = post("one", &job);
    let second = post("one", &job);
    assert_eq!((first.status, second.status), (201, 200));
    assert_eq!(first.text("id"), second.text("id"));
    assert_ne!(first.text("id"), post("two", &job).text("id"));
    // The same key for another job is a mistake of the client, and must not look like success.
    let other = json!({ "kind": "matmul", "a": id, "b": id, "transpose_b": true }).to_string();
    refused(&post("one", &other), 409, "key_reused", "another job", "new key");
    for key in [String::new(), "x".repeat(129), "\u{e9}".to_owned()] {
        refused(&post(&key, &job), 400, "bad_request", "1 to 128 characters", "UUID");
    }
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| post("at once", &job))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for answer in &together {
        assert!(matches!(answer.status, 200 | 201), "{}", answer.json());
        assert_eq!(answer.text("id"), together[0].text("id"));
    }
    assert_eq!(api.get("/api/v1/jobs").json().as_array().map(Vec::len), Some(3));

    let path = format!("/api/v1/jobs/{}", first.text("id"));
    refused(&api.get(&format!("{path}/result")), 409, "not_finished", "running", "wait");
    for _ in 0..2 {
        let canceled = api.send("DELETE", &path, &[], &[]);
        assert_eq!((canceled.status, canceled.text("state").as_str()), (200, "canceled"));
    }
    refused(&api.get(&format!("{path}/result")), 409, "not_finished", "canceled", "submit it again");
    let volunteer = Volunteer::start(&api.url, 1, Preset::Full);
    let done = post("two", &job).text("id");
    assert_eq!(api.result(&done, PRODUCT_LIMIT).1, [2.0; 4]);
    let answer = api.send("DELETE", &format!("/api/v1/jobs/{done}"), &[], &[]);
    refused(&answer, 409, "already_done", "done", "fetch its result");
    volunteer.end();
}
