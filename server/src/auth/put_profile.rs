//! `PUT /as/profile` (AS-6): replaces a user's profile. A client signed it, so the AS keeps it as it is; what the AS
//! checks is that everybody can show it: sizes, plain text, and a picture that is one.

use http::StatusCode;
use imagesize::ImageType;
use postern_protocol::{
    MessageDigest, Payload, PublicKey, Transcript,
    encoding::Encoding,
    problem::{Problem, ProblemType},
    profile::{PictureFormat, PictureLink, PutProfile, SignedProfile},
};
use tokio_postgres::Row;

use super::{As, identity};
use crate::{
    database::outcome,
    http::{Answer, Failure, Outcome, Payment, Request},
};

outcome! {
    pub PutProfileOutcome: "auth.put_profile_outcome", paid {
        Kept = "kept",
        UnknownClient = "unknown_client",
        Outdated = "outdated",
        NoPicture = "no_picture",
    }
}

/// The identity that a profile has to be signed for, and the operator's limits.
struct Terms {
    incarnation: u32,
    founding: Transcript,
    max_display_name_bytes: usize,
    max_text_bytes: usize,
    max_sealed_bytes: usize,
    max_picture_bytes: usize,
    max_picture_pixels: usize,
}

pub async fn put_profile(auth: As, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<PutProfile>()?;
    let key = signer.as_bytes().as_slice();
    let sql = "SELECT incarnation, founding, max_display_name_bytes, max_profile_text_bytes, max_sealed_profile_bytes,
                      max_picture_bytes, max_picture_pixels
               FROM auth.load_profile_limits($1)";
    let row = auth.home.database.query_opt(sql, &[&key]).await?.ok_or(ProblemType::NotAllowed)?;
    Terms::read(&row)?.check(&body, signer)?;
    let profile = &body.profile.profile;
    let version = i64::try_from(profile.version).map_err(|_| invalid("its version is too great"))?;
    let digest = profile.picture.map(|picture| *picture.digest.as_bytes());
    let (outcome, _) = payment
        .call(
            &auth.home.database,
            "SELECT outcome FROM auth.put_profile($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[
                &key,
                &row.get::<_, i32>("incarnation"),
                &version,
                &Encoding::Cbor.encode(&body.profile),
                &digest.as_ref().map(<[u8; 32]>::as_slice),
                &body.picture.as_ref().map(Payload::as_bytes),
                &body.lookup.as_ref().map(|digest| digest.as_bytes().as_slice()),
            ],
        )
        .await?;
    match outcome {
        PutProfileOutcome::Kept => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        PutProfileOutcome::UnknownClient => Err(ProblemType::NotAllowed.into()),
        PutProfileOutcome::Outdated => Err(ProblemType::ProfileOutdated.into()),
        PutProfileOutcome::NoPicture => Err(invalid("its picture is another one than the server has").into()),
    }
}

/// The profile that was kept here.
///
/// # Errors
/// A fault: the row was changed.
pub fn open(profile: &[u8]) -> Result<SignedProfile, Failure> {
    Encoding::Cbor.decode(profile).map_err(Failure::fault)
}

impl Terms {
    fn read(row: &Row) -> Result<Self, Failure> {
        let bound = |column| usize::try_from(row.get::<_, i32>(column)).map_err(Failure::fault);
        Ok(Self {
            incarnation: u32::try_from(row.get::<_, i32>("incarnation")).map_err(Failure::fault)?,
            founding: identity::transcript(row, "founding")?,
            max_display_name_bytes: bound("max_display_name_bytes")?,
            max_text_bytes: bound("max_profile_text_bytes")?,
            max_sealed_bytes: bound("max_sealed_profile_bytes")?,
            max_picture_bytes: bound("max_picture_bytes")?,
            max_picture_pixels: bound("max_picture_pixels")?,
        })
    }

    fn check(&self, body: &PutProfile, signer: PublicKey) -> Result<(), Problem> {
        let SignedProfile { profile, client, .. } = &body.profile;
        let picture = body.picture.as_ref().map(Payload::as_bytes);
        expect_at_most("a display name", profile.display_name.len(), self.max_display_name_bytes)?;
        expect_at_most("a profile's text", profile.text.len(), self.max_text_bytes)?;
        expect_at_most("the part for contacts", profile.sealed.as_bytes().len(), self.max_sealed_bytes)?;
        expect_at_most("a picture", picture.unwrap_or_default().len(), self.max_picture_bytes)?;
        if *client != signer || profile.incarnation != self.incarnation {
            return Err(invalid("it is not of the client that signed the request, and its identity"));
        }
        if body.profile.verify(&self.founding).is_err() {
            return Err(invalid("its signature does not verify"));
        }
        if profile.discoverable == body.lookup.is_some() {
            return Err(invalid("a lookup secret is for a user that is not discoverable"));
        }
        if profile.display_name.chars().any(char::is_control) {
            return Err(invalid("a display name has no control characters"));
        }
        if profile.text.chars().any(|character| character.is_control() && character != '\n') {
            return Err(invalid("its text has no control characters but line feeds"));
        }
        match (profile.picture, picture) {
            (Some(link), Some(picture)) => self.check_picture(&link, picture),
            (None, Some(_)) => Err(invalid("it names no picture, and one came with it")),
            (_, None) => Ok(()),
        }
    }

    /// Checks a picture by its content, whatever is said of it.
    fn check_picture(&self, link: &PictureLink, picture: &[u8]) -> Result<(), Problem> {
        let format = match imagesize::image_type(picture) {
            Ok(ImageType::Png) => PictureFormat::Png,
            Ok(ImageType::Jpeg) => PictureFormat::Jpeg,
            Ok(ImageType::Webp) => PictureFormat::Webp,
            _ => return Err(invalid("a picture is PNG, JPEG or WebP")),
        };
        let said = (link.format, link.bytes as usize, link.digest);
        if said != (format, picture.len(), MessageDigest::of(picture)) {
            return Err(invalid("its picture is not the one that came with it"));
        }
        let size = imagesize::blob_size(picture).map_err(|_| invalid("its picture cannot be read"))?;
        let most = self.max_picture_pixels;
        if size.width == 0 || size.height == 0 || size.width > most || size.height > most {
            let detail = format_args!("a picture has 1 to {most} pixels in each direction");
            return Err(Problem::with_detail(ProblemType::InvalidProfile, detail));
        }
        Ok(())
    }
}

fn expect_at_most(what: &str, bytes: usize, most: usize) -> Result<(), Problem> {
    if bytes > most {
        let detail = format_args!("{what} can have at most {most} bytes here");
        return Err(Problem::with_detail(ProblemType::BodyTooLarge, detail));
    }
    Ok(())
}

fn invalid(detail: &str) -> Problem {
    Problem::with_detail(ProblemType::InvalidProfile, detail)
}
