//! Token requests in the three formats of RFC 9578 and draft-ietf-privacypass-batched-tokens: they
//! are parsed and matched with keys before anything is taken from an allowance.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use postern_protocol::{
    aas::IssuerDirectory,
    problem::{Problem, ProblemType},
    token::{self, BATCH_SIZES, TokenType},
};
use privacypass::{
    amortized_tokens::AmortizedBatchTokenRequest,
    generic_tokens::{
        GenericBatchTokenRequest, GenericBatchTokenResponse, GenericTokenRequest, OptionalTokenResponse,
    },
};
use tls_codec::Deserialize as _;
use voprf::BlindedElement;

use super::{issuer_key::IssuerKey, key_ring::KeyRing};

/// Token type and truncated key id, before the blinded messages.
const HEADER_LEN: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One token (RFC 9578 §5.1, §6.1).
    Single,
    /// Tokens of one type and key, under one proof (batched-tokens draft §5).
    Amortized,
    /// Tokens of any types (batched-tokens draft §6).
    Generic,
}

impl Format {
    pub const ALL: [Self; 3] = [Self::Single, Self::Amortized, Self::Generic];

    pub const fn request_media_type(self) -> &'static str {
        match self {
            Self::Single => token::REQUEST_MEDIA_TYPE,
            Self::Amortized => token::BATCH_REQUEST_MEDIA_TYPE,
            Self::Generic => token::GENERIC_REQUEST_MEDIA_TYPE,
        }
    }

    pub const fn response_media_type(self) -> &'static str {
        match self {
            Self::Single => token::RESPONSE_MEDIA_TYPE,
            Self::Amortized => token::BATCH_RESPONSE_MEDIA_TYPE,
            Self::Generic => token::GENERIC_RESPONSE_MEDIA_TYPE,
        }
    }
}

/// A parsed request.
pub enum TokenRequest {
    Single(GenericTokenRequest),
    /// The request's bytes, and its number of tokens.
    Amortized(Vec<u8>, usize),
    Generic(Vec<GenericTokenRequest>),
}

/// A request whose keys are in use and whose blinded messages are valid.
pub enum Issuable {
    Single(Arc<IssuerKey>, GenericTokenRequest),
    Amortized(Arc<IssuerKey>, Vec<u8>, usize),
    /// `None` where no token can be issued.
    Generic(Vec<Option<(Arc<IssuerKey>, GenericTokenRequest)>>),
}

/// The answer's bytes, and whether some tokens are missing (206).
pub struct Issued {
    pub response: Vec<u8>,
    pub partial: bool,
}

impl TokenRequest {
    /// Reads a request in this format.
    ///
    /// # Errors
    /// The problems for which the standards ask 422: another token type, size or syntax.
    pub fn parse(format: Format, body: &[u8]) -> Result<Self, Problem> {
        let malformed = |_| invalid("the token request does not parse");
        if format != Format::Generic {
            known_type(body)?;
        }
        match format {
            Format::Single => {
                GenericTokenRequest::tls_deserialize_exact(body).map(Self::Single).map_err(malformed)
            }
            Format::Amortized => {
                let number = match known_type(body)? {
                    TokenType::PrivateP384 => {
                        AmortizedBatchTokenRequest::<p384::NistP384>::tls_deserialize_exact(body)
                            .map(|batch| batch.nr())
                    }
                    TokenType::PrivateRistretto255 => {
                        AmortizedBatchTokenRequest::<voprf::Ristretto255>::tls_deserialize_exact(body)
                            .map(|batch| batch.nr())
                    }
                    // This type has no proof that a batch could share.
                    TokenType::Public => return Err(ProblemType::UnknownTokenKey.into()),
                };
                let number = number.map_err(malformed)?;
                offered_size(number)?;
                Ok(Self::Amortized(body.to_vec(), number))
            }
            Format::Generic => {
                let batch = GenericBatchTokenRequest::tls_deserialize_exact(body).map_err(malformed)?;
                offered_size(batch.token_requests.len())?;
                Ok(Self::Generic(batch.token_requests))
            }
        }
    }

    /// The number of tokens that are asked for.
    pub fn number(&self) -> usize {
        match self {
            Self::Single(_) => 1,
            Self::Amortized(_, number) => *number,
            Self::Generic(requests) => requests.len(),
        }
    }

    /// The number of tokens of each type that are asked for.
    pub fn asked(&self) -> Vec<(TokenType, i32)> {
        let number = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let keys = self.keys();
        if let Self::Amortized(_, tokens) = self {
            return keys.into_iter().map(|(kind, _)| (kind, number(*tokens))).collect();
        }
        let of_kind = |kind| (kind, number(keys.iter().filter(|(found, _)| *found == kind).count()));
        token::TOKEN_TYPES.into_iter().map(of_kind).filter(|(_, number)| *number > 0).collect()
    }

    /// Checks what an attester can: the keys that are named are in the other issuer's directory, and the blinded messages
    /// are elements of the group. That takes up to a tenth of a millisecond for each.
    ///
    /// # Errors
    /// `unknown-token-key`, `invalid-token-request`.
    pub fn check_for(&self, directory: &IssuerDirectory) -> Result<(), Problem> {
        let published: Vec<(u16, u8)> = directory
            .token_keys
            .iter()
            .filter_map(|key| {
                let id = token::token_key_id(&URL_SAFE.decode(&key.token_key).ok()?);
                Some((key.token_type, *id.last()?))
            })
            .collect();
        if !self.keys().iter().all(|(kind, id)| published.contains(&(*kind as u16, *id))) {
            return Err(ProblemType::UnknownTokenKey.into());
        }
        let are_elements = match self {
            Self::Single(request) => is_blinded(header(request).0, &to_bytes(request)[HEADER_LEN..]),
            Self::Amortized(body, number) => {
                let kind = known_type(body)?;
                let length = IssuerKey::blinded_len(kind);
                body[body.len() - number * length..].chunks(length).all(|element| is_blinded(kind, element))
            }
            Self::Generic(requests) => {
                requests.iter().all(|request| is_blinded(header(request).0, &to_bytes(request)[HEADER_LEN..]))
            }
        };
        are_elements.then_some(()).ok_or_else(|| invalid("a blinded message is not valid for its token type"))
    }

    /// The token types and truncated key ids that the request names.
    pub fn keys(&self) -> Vec<(TokenType, u8)> {
        match self {
            Self::Single(request) => vec![header(request)],
            Self::Amortized(body, _) => {
                known_type(body).ok().into_iter().map(|kind| (kind, body[HEADER_LEN - 1])).collect()
            }
            Self::Generic(requests) => requests.iter().map(header).collect(),
        }
    }

    /// Checks that a key issues which the request names, without a look at its blinded messages.
    ///
    /// # Errors
    /// As [`Self::check`], for a request of which no key issues.
    pub fn check_keys(&self, ring: &KeyRing) -> Result<(), Problem> {
        let issues = self.keys().iter().any(|(kind, id)| ring.issuing(*kind, *id).is_some());
        let refusal = match self {
            Self::Single(_) | Self::Amortized(..) => ProblemType::UnknownTokenKey,
            Self::Generic(_) => ProblemType::NoTokenIssued,
        };
        issues.then_some(()).ok_or_else(|| refusal.into())
    }

    /// Finds the keys and checks the blinded messages, which takes milliseconds of CPU.
    ///
    /// # Errors
    /// When no token can be issued; in a generic batch, none at all.
    pub fn check(self, ring: &KeyRing) -> Result<Issuable, Problem> {
        let key = |(kind, id)| ring.issuing(kind, id).map(|key| key.key.clone());
        let unknown = || Problem::new(ProblemType::UnknownTokenKey);
        let no_element = || invalid("a blinded message is not valid for its token type");
        match self {
            Self::Single(request) => {
                let key = key(header(&request)).ok_or_else(unknown)?;
                let valid = key.accepts(&to_bytes(&request)[HEADER_LEN..]);
                valid.then_some(Issuable::Single(key, request)).ok_or_else(no_element)
            }
            Self::Amortized(body, number) => {
                let kind = known_type(&body)?;
                let key = key((kind, body[HEADER_LEN - 1])).ok_or_else(unknown)?;
                let length = IssuerKey::blinded_len(kind);
                // The elements are at the end of the request; its parsed form does not show them.
                let elements = &body[body.len() - number * length..];
                let valid = elements.chunks(length).all(|element| key.accepts(element));
                valid.then_some(Issuable::Amortized(key, body, number)).ok_or_else(no_element)
            }
            Self::Generic(requests) => {
                let issuable: Vec<_> = requests
                    .into_iter()
                    .map(|request| {
                        let key = key(header(&request))?;
                        key.accepts(&to_bytes(&request)[HEADER_LEN..]).then_some((key, request))
                    })
                    .collect();
                if issuable.iter().all(Option::is_none) {
                    return Err(ProblemType::NoTokenIssued.into());
                }
                Ok(Issuable::Generic(issuable))
            }
        }
    }
}

impl Issuable {
    /// The number of tokens of each type.
    pub fn numbers(&self) -> Vec<(TokenType, i32)> {
        match self {
            Self::Single(key, _) => vec![(key.token_type(), 1)],
            Self::Amortized(key, _, number) => {
                vec![(key.token_type(), i32::try_from(*number).unwrap_or(i32::MAX))]
            }
            Self::Generic(requests) => token::TOKEN_TYPES
                .into_iter()
                .map(|kind| {
                    let of_kind = requests.iter().flatten().filter(|(key, _)| key.token_type() == kind);
                    (kind, i32::try_from(of_kind.count()).unwrap_or(i32::MAX))
                })
                .filter(|(_, number)| *number > 0)
                .collect(),
        }
    }

    /// Issues the tokens: up to 2.5 ms of CPU each.
    ///
    /// # Errors
    /// When no token was issued.
    pub fn issue(self) -> Result<Issued, Problem> {
        let failed = |_| invalid("a blinded message is not valid for its token type");
        match self {
            Self::Single(key, request) => {
                let response = to_bytes(&key.issue(request).map_err(failed)?);
                // Without the token type, which only a generic batch contains.
                Ok(Issued { response: response[2..].to_vec(), partial: false })
            }
            Self::Amortized(key, body, _) => {
                Ok(Issued { response: key.issue_batch(&body).map_err(failed)?, partial: false })
            }
            Self::Generic(requests) => {
                let token_responses: Vec<_> = requests
                    .into_iter()
                    .map(|request| {
                        let token_response = request.and_then(|(key, one)| key.issue(one).ok());
                        OptionalTokenResponse { token_response }
                    })
                    .collect();
                let batch = GenericBatchTokenResponse { token_responses };
                match batch.issued_count() {
                    0 => Err(ProblemType::NoTokenIssued.into()),
                    issued => Ok(Issued {
                        response: to_bytes(&batch),
                        partial: issued < batch.token_responses.len(),
                    }),
                }
            }
        }
    }
}

/// Whether bytes are a blinded message of a type, as far as nobody's key is needed to tell.
fn is_blinded(kind: TokenType, bytes: &[u8]) -> bool {
    match kind {
        TokenType::PrivateP384 => BlindedElement::<p384::NistP384>::deserialize(bytes).is_ok(),
        TokenType::PrivateRistretto255 => BlindedElement::<voprf::Ristretto255>::deserialize(bytes).is_ok(),
        TokenType::Public => true,
    }
}

fn header(request: &GenericTokenRequest) -> (TokenType, u8) {
    let kind = match request {
        GenericTokenRequest::PrivateP384(_) => TokenType::PrivateP384,
        GenericTokenRequest::Public(_) => TokenType::Public,
        GenericTokenRequest::PrivateRistretto255(_) => TokenType::PrivateRistretto255,
    };
    (kind, to_bytes(request)[HEADER_LEN - 1])
}

fn known_type(body: &[u8]) -> Result<TokenType, Problem> {
    let mut start = body.get(..2).ok_or_else(|| invalid("the token request does not parse"))?;
    TokenType::tls_deserialize(&mut start).map_err(|_| Problem::new(ProblemType::UnknownTokenKey))
}

fn offered_size(number: usize) -> Result<(), Problem> {
    if BATCH_SIZES.iter().any(|size| usize::from(*size) == number) {
        Ok(())
    } else {
        Err(invalid("a batch must have 1, 10 or 100 tokens"))
    }
}

fn to_bytes(value: &impl tls_codec::Serialize) -> Vec<u8> {
    value.tls_serialize_detached().expect("what was parsed, or made here, serialises")
}

fn invalid(detail: &str) -> Problem {
    Problem::with_detail(ProblemType::InvalidTokenRequest, detail)
}
