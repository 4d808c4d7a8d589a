//! Oblivious HTTP between a client and the gateway of another domain (RFC 9458): requests and answers as binary HTTP
//! messages (RFC 9292). They are padded with zeros, so that their sizes tell less. The two ends seal them.

use std::io::Cursor;

use bhttp::{FieldSection, Message, Mode};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, uri::PathAndQuery,
};

use crate::name::Domain;

/// Media types of a sealed request and a sealed answer (RFC 9458 §9).
pub const REQUEST_MEDIA_TYPE: &str = "message/ohttp-req";
pub const RESPONSE_MEDIA_TYPE: &str = "message/ohttp-res";
/// Bytes that a sealed message may have on top of the body in it: its head, padding and seal.
pub const ENVELOPE_BYTES: usize = MAX_HEAD_BYTES + 1024;

/// Number of bytes that the size of a message made here is a multiple of. Others pad as they like.
const PADDING: usize = 256;
/// Bytes that method, target and header fields may have together.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// The bytes are no binary HTTP message of the kind that was expected, or it has too large a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no binary HTTP message (RFC 9292), or its head has more than {MAX_HEAD_BYTES} bytes")]
pub struct MalformedMessage;

/// A request for the homeserver of a domain, which its signature is for, too.
pub fn encode_request(request: &Request<Vec<u8>>, authority: &Domain) -> Vec<u8> {
    let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let message = Message::request(
        request.method().as_str().into(),
        "https".into(),
        authority.as_str().into(),
        target.into(),
    );
    encode(message, request.headers(), request.body())
}

/// The request in a message. Its URI is absolute.
///
/// # Errors
/// [`MalformedMessage`].
pub fn decode_request(bytes: &[u8]) -> Result<Request<Vec<u8>>, MalformedMessage> {
    let message = decode(bytes)?;
    let control = message.control();
    let (Some(method), Some(scheme), Some(authority), Some(target)) =
        (control.method(), control.scheme(), control.authority(), control.path())
    else {
        return Err(MalformedMessage);
    };
    let head = method.len() + scheme.len() + authority.len() + target.len();
    let mut request = Request::new(message.content().to_vec());
    *request.method_mut() = Method::from_bytes(method).map_err(|_| MalformedMessage)?;
    *request.uri_mut() = Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(target)
        .build()
        .map_err(|_| MalformedMessage)?;
    *request.headers_mut() = fields(message.header(), head)?;
    Ok(request)
}

/// An answer as a message.
pub fn encode_response(response: &Response<Vec<u8>>) -> Vec<u8> {
    let status = response.status().as_u16().try_into().expect("it is a status");
    encode(Message::response(status), response.headers(), response.body())
}

/// The answer in a message.
///
/// # Errors
/// [`MalformedMessage`].
pub fn decode_response(bytes: &[u8]) -> Result<Response<Vec<u8>>, MalformedMessage> {
    let message = decode(bytes)?;
    let status = message.control().status().ok_or(MalformedMessage)?;
    let mut response = Response::new(message.content().to_vec());
    *response.status_mut() = StatusCode::from_u16(status.code()).map_err(|_| MalformedMessage)?;
    *response.headers_mut() = fields(message.header(), 0)?;
    Ok(response)
}

fn encode(mut message: Message, headers: &HeaderMap, body: &[u8]) -> Vec<u8> {
    for (name, value) in headers {
        message.put_header(name.as_str(), value.as_bytes());
    }
    message.write_content(body);
    let mut encoded = Vec::with_capacity(body.len() + 4 * PADDING);
    message.write_bhttp(Mode::KnownLength, &mut encoded).expect("memory can be written");
    encoded.resize(encoded.len().next_multiple_of(PADDING), 0);
    encoded
}

fn decode(bytes: &[u8]) -> Result<Message, MalformedMessage> {
    let mut cursor = Cursor::new(bytes);
    let message = Message::read_bhttp(&mut cursor).map_err(|_| MalformedMessage)?;
    let read = usize::try_from(cursor.position()).map_err(|_| MalformedMessage)?;
    // Any number of zeros is padding (RFC 9292 §3.8). Anything else would be a message that each reader reads differently.
    let is_padding = bytes.get(read..).is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
    (is_padding && message.trailer().is_empty()).then_some(message).ok_or(MalformedMessage)
}

/// Header fields, of a head that has so many bytes without them.
fn fields(section: &FieldSection, mut head: usize) -> Result<HeaderMap, MalformedMessage> {
    let mut headers = HeaderMap::new();
    for field in section.fields() {
        head += field.name().len() + field.value().len();
        if head > MAX_HEAD_BYTES {
            return Err(MalformedMessage);
        }
        let name = HeaderName::from_bytes(field.name()).map_err(|_| MalformedMessage)?;
        let value = HeaderValue::from_bytes(field.value()).map_err(|_| MalformedMessage)?;
        headers.append(name, value);
    }
    (head <= MAX_HEAD_BYTES).then_some(headers).ok_or(MalformedMessage)
}

#[cfg(test)]
mod tests {
    use http::header::{AUTHORIZATION, CONTENT_TYPE};

    use super::*;

    fn request(body: Vec<u8>) -> Request<Vec<u8>> {
        Request::post("https://x.example/qs/queues?a=b")
            .header(CONTENT_TYPE, "application/cbor")
            .header(AUTHORIZATION, "PrivateToken token=AAAA")
            .body(body)
            .unwrap()
    }

    fn encoded(body: Vec<u8>) -> Vec<u8> {
        encode_request(&request(body), &"x.example".parse().unwrap())
    }

    #[test]
    fn requests_and_answers_survive_their_messages_whose_sizes_are_classes() {
        for size in [0, 1, 255, 256, 100_000] {
            let (sent, bytes) = (request(vec![7; size]), encoded(vec![7; size]));
            assert_eq!(bytes.len() % PADDING, 0, "{size}");
            let read = decode_request(&bytes).unwrap();
            assert_eq!((read.method(), read.uri()), (sent.method(), sent.uri()), "{size}");
            assert_eq!((read.headers(), read.body()), (sent.headers(), sent.body()), "{size}");

            let sent =
                Response::builder().status(409).header(CONTENT_TYPE, "a/b").body(vec![7; size]).unwrap();
            let bytes = encode_response(&sent);
            assert_eq!(bytes.len() % PADDING, 0, "{size}");
            let read = decode_response(&bytes).unwrap();
            assert_eq!(
                (read.status(), read.headers(), read.body()),
                (sent.status(), sent.headers(), sent.body())
            );
        }
    }

    #[test]
    fn others_pad_with_as_many_zeros_as_they_like() {
        let (sent, encoded) = (request(vec![7; 10]), encoded(vec![7; 10]));
        let answer = Response::new(vec![7; 10]);
        let answered = encode_response(&answer);
        for zeros in [0, 1, PADDING - 1, PADDING, 1024, 4096, 1024 * 1024] {
            let padded = |bytes: &[u8]| {
                let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
                // The first zero is the length of the trailer, which is empty.
                [&bytes[..end], &vec![0; 1 + zeros]].concat()
            };
            let read = decode_request(&padded(&encoded)).unwrap();
            assert_eq!((read.uri(), read.body()), (sent.uri(), sent.body()), "{zeros}");
            let read = decode_response(&padded(&answered)).unwrap();
            assert_eq!(read.body(), answer.body(), "{zeros}");
        }
    }

    #[test]
    fn what_is_no_message_of_the_kind_is_refused() {
        let good = encoded(vec![7; 10]);
        assert!(decode_request(&good).is_ok());
        let response = encode_response(&Response::new(vec![7; 10]));
        let padded = |last: u8| [&good[..good.len() - 1], &[last]].concat();
        let long = request(Vec::new());
        let padded_with = |zeros: usize, last: u8| [&good[..], &vec![0; zeros], &[last]].concat();
        let with_header = |bytes: usize| {
            let (mut parts, body) = long.clone().into_parts();
            parts.headers.insert("x", HeaderValue::from_bytes(&vec![b'a'; bytes]).unwrap());
            encode_request(&Request::from_parts(parts, body), &"x.example".parse().unwrap())
        };
        assert!(decode_request(&with_header(MAX_HEAD_BYTES - 200)).is_ok());
        for (what, bytes) in [
            ("nothing", Vec::new()),
            ("an answer", response),
            ("cut", good[..40].to_vec()),
            ("padded with something", padded(1)),
            ("padded with something at last", padded_with(4096, 1)),
            ("two messages", good.repeat(2)),
            ("a large head", with_header(MAX_HEAD_BYTES)),
            ("a length beyond its end", vec![0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ] {
            assert_eq!(decode_request(&bytes).err(), Some(MalformedMessage), "{what}");
        }
        assert_eq!(decode_response(&good).err(), Some(MalformedMessage), "a request");
    }
}
