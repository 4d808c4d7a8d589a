//! Attributes of leaves (DS-12): what members keep at the DS for each other to read.

use postern_protocol::{Attributes, PublicKey, ds::LeafAttributes};

use super::{record, state::GroupState};
use crate::{
    error::{Error, Result},
    sealed,
    store::Tx,
};

impl GroupState {
    /// The attributes of leaves, by leaf key, as far as they open.
    ///
    /// # Errors
    /// [`Error::NoAttributesKey`].
    pub(crate) fn open_attributes(
        &self,
        tx: &Tx<'_>,
        kept: &[LeafAttributes],
    ) -> Result<Vec<(PublicKey, Vec<u8>)>> {
        let key = record::attributes_key(tx, &self.id)?.ok_or(Error::NoAttributesKey)?;
        let open = |of: &LeafAttributes| {
            let content = sealed::open(&key, &of.leaf_key, of.attributes.as_bytes())?;
            Some((of.leaf_key, content))
        };
        Ok(kept.iter().filter_map(open).collect())
    }

    /// Attributes of this device's leaf, sealed for the group's members.
    ///
    /// # Errors
    /// [`Error::NoAttributesKey`].
    pub(super) fn seal_attributes(&self, tx: &Tx<'_>, content: &[u8]) -> Result<LeafAttributes> {
        let leaf_key = self.leaf.public_key();
        let key = record::attributes_key(tx, &self.id)?.ok_or(Error::NoAttributesKey)?;
        let attributes = Attributes::new(sealed::seal(&key, &leaf_key, content)?);
        Ok(LeafAttributes { leaf_key, attributes })
    }
}
