//! Answers that their clients have not read yet. The memory that they take counts for their connection until it has
//! taken the last of them, so that a client that reads little or nothing holds no memory and no place for long.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use hyper::body::{Body, Frame, SizeHint};

use super::connections::Reading;

/// The part of an answer that is handed to a connection at a time, in bytes: what it buffers is not counted any more.
const PART: usize = 16 * 1024;

/// An answer's body, in parts that are handed over as fast as the client reads.
pub struct Unread<B> {
    body: B,
    /// The part of the body's present frame that is not handed over yet.
    rest: Bytes,
    reading: Reading,
}

impl<B: Body> Unread<B> {
    /// The answer, which counts as `reading` tells until it was read. `reading` is made of the number of its bytes.
    pub fn answer(answer: Response<B>, reading: impl FnOnce(usize) -> Reading) -> Response<Self> {
        answer.map(|body| {
            let length = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
            Self { body, rest: Bytes::new(), reading: reading(length) }
        })
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Unread<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let part = this.rest.split_to(this.rest.len().min(PART));
        this.reading.taken(part.len());
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}
