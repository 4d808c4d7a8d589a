//! HTTP/1.1 messages as bytes, for what stands between a client and a server.

use tokio::{io::AsyncReadExt, net::tcp::OwnedReadHalf};

/// The head of an HTTP/1.1 message, and the whole of it; `None` at the end. Its body has a length, or there is none.
pub async fn message(from: &mut OwnedReadHalf) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if from.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let total = end + length.unwrap_or_default();
    while bytes.len() < total {
        if from.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some((head, bytes)))
}

/// The answer with the body that `change` makes of its own, and the length of that.
pub fn with_body(answer: &[u8], change: &dyn Fn(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("it has a head") + 4;
    let body = change(answer[end..].to_vec());
    let head = String::from_utf8_lossy(&answer[..end - 2]).into_owned();
    let kept = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
    let head: String = kept.map(|line| format!("{line}\r\n")).collect();
    [format!("{head}content-length: {}\r\n\r\n", body.len()).into_bytes(), body].concat()
}
