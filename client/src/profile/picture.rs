//! The picture of a profile: what its content says that it is, and the one that the AS shows.

use postern_protocol::{
    MessageDigest,
    name::UserName,
    problem::ProblemType,
    profile::{PictureFormat, PictureLink},
};

use super::{lookup_secrets, profile};
use crate::{
    elsewhere,
    error::{Error, Result},
    server::Api,
    store::Store,
};

/// The picture of a profile's next version.
#[derive(Clone, Copy)]
pub(super) enum NextPicture {
    Same,
    None,
    New(PictureLink),
}

impl NextPicture {
    /// A picture of what its content says that it is; none for an empty one.
    ///
    /// # Errors
    /// [`Error::BadPicture`].
    pub(super) fn of(picture: &[u8]) -> Result<Self> {
        if picture.is_empty() {
            return Ok(Self::None);
        }
        let format = match imagesize::image_type(picture) {
            Ok(imagesize::ImageType::Png) => PictureFormat::Png,
            Ok(imagesize::ImageType::Jpeg) => PictureFormat::Jpeg,
            Ok(imagesize::ImageType::Webp) => PictureFormat::Webp,
            _ => return Err(Error::BadPicture),
        };
        let bytes = u32::try_from(picture.len()).map_err(|_| Error::BadPicture)?;
        Ok(Self::New(PictureLink { format, bytes, digest: MessageDigest::of(picture) }))
    }
}

/// The picture that a profile names, as the AS shows it.
///
/// # Errors
/// [`Error::BadPicture`] for another one.
pub(crate) async fn picture(api: &Api, store: &Store, user: &UserName) -> Result<Option<Vec<u8>>> {
    let (profile, secrets) = store.read(|tx| Ok((profile(tx, user)?, lookup_secrets(tx, user)?)))?;
    let Some(wanted) = profile.picture else { return Ok(None) };
    let mut secrets = secrets.iter();
    let api = elsewhere::api_for(api, user.domain())?;
    let picture = loop {
        match api.fetch_picture(user, secrets.next()).await {
            Err(error) if error.problem() == Some(ProblemType::NotFound) && secrets.len() > 0 => {}
            answer => break answer?.into_bytes(),
        }
    };
    if MessageDigest::of(&picture) == wanted.digest { Ok(Some(picture)) } else { Err(Error::BadPicture) }
}
