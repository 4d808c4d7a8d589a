//! The wallet of the outbox (FED-3): tokens of the other domain's issuer, whose keys change.

use postern_protocol::token::TOKEN_TYPE;
use postern_tests_kit::{World, bytes_of, eventually};

use super::Talk;

/// The public keys of a homeserver's issuer by which it makes the tokens of homeservers.
async fn issuer_keys(world: &World) -> Vec<Vec<u8>> {
    let keys = world.description().await.issuer.token_keys;
    keys.iter().filter(|key| key.token_type == TOKEN_TYPE).map(bytes_of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_wallet_is_filled_by_another_key_than_the_one_that_was_seen_and_no_allowance_is_lost() {
    let mut talk = Talk::start().await;
    let empty = "DELETE FROM federation.tokens";
    talk.sender().admin.execute(empty, &[]).await.unwrap();
    let dead = issuer_keys(talk.receiver()).await;
    talk.receiver().admin.execute("SELECT operator.rotate_issuer_keys(revoke => true)", &[]).await.unwrap();
    eventually("there are others", async || {
        let now = issuer_keys(talk.receiver()).await;
        (!now.is_empty() && !now.iter().any(|key| dead.contains(key))).then_some(())
    })
    .await;
    // The description that was seen is good for an hour.
    let pass = "UPDATE federation.looks SET looked = looked - interval '2 minutes'";
    assert_eq!(talk.sender().admin.execute(pass, &[]).await.unwrap(), 1, "it was seen");
    let issued = async |talk: &Talk| -> i64 {
        let sql = "SELECT coalesce(sum(tokens), 0)::bigint FROM aas.issued JOIN aas.takers USING (taker)
                    WHERE domain = 'a.example'";
        talk.receiver().value(sql).await
    };
    let before = (talk.taken().await, issued(&talk).await);
    talk.say("with the key that there is").await;
    talk.drained().await;
    assert_eq!(talk.taken().await, before.0 + 1, "by another key");
    assert_eq!(issued(&talk).await, before.1 + 100, "what was asked for with the dead key took nothing");
    talk.neighbours.close();
}
