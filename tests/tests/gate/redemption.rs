//! Redemption by the standard (RFC 9577).

use postern_protocol::token::{self, TOKEN_TYPES, TokenType};
use postern_tests_kit::{Call, World, home};
use privacypass::auth::authenticate::parse_www_authenticate_header;

#[tokio::test]
async fn a_challenge_of_every_type_is_offered_and_is_the_same_for_everyone() {
    let gate = World::builder().servers(2).start().await;
    let mut offers = Vec::new();
    for server in [0, 1, 0] {
        let reply = gate.way(server).send(&Call::post("/ds/group-ids").wire()).await;
        offers.push(reply.header("www-authenticate").to_owned());
    }
    offers.dedup();
    assert_eq!(offers.len(), 1, "nobody is singled out");

    // privacypass reads parameters without quotes only.
    let offer = offers[0].replace('"', "").parse().unwrap();
    let challenges = parse_www_authenticate_header(&offer).unwrap();
    let types: Vec<TokenType> = challenges.iter().map(|one| one.token_challenge().token_type()).collect();
    assert!(types.iter().eq(TOKEN_TYPES.iter().rev()), "the most widely known first: {types:?}");
    for challenge in challenges {
        let token_type = challenge.token_challenge().token_type();
        assert_eq!(*challenge.token_challenge(), token::challenge_of(token_type, &home()));
        assert_eq!(challenge.max_age(), Some(token::CHALLENGE_MAX_AGE));
        assert_eq!(challenge.token_key(), gate.issuer_key(token_type).await);
    }
}
