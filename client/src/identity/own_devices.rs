//! This user's devices, as its own identity (EID) has them.

use openmls::prelude::{GroupId as MlsGroupId, MlsGroup};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::PublicKey;

use crate::{account::Account, error::Result, mls, store::Tx};

/// The client keys of this user's devices, this one included; none before this device is one.
pub(crate) fn own_devices(tx: &Tx<'_>) -> Result<Vec<PublicKey>> {
    let Some(id) = Account::load(tx)?.eid_group_id.clone() else { return Ok(Vec::new()) };
    let group = MlsGroup::load(tx.storage(), &MlsGroupId::from_slice(&id))?;
    let members = group.iter().flat_map(MlsGroup::members);
    Ok(members.filter_map(|member| mls::public_key(&member.signature_key)).collect())
}
