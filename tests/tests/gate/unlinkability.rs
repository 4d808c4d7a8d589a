//! Nothing joins the records of issuance with those of redemption (AAS-6): a thousand tokens are issued
//! and redeemed, and a dump and all logs are searched for anything that the two sides have in common.

use std::collections::{BTreeMap, HashSet};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use postern_protocol::token::TokenType;
use postern_tests_kit::{
    Ask, World,
    dump::{is_date, rows},
};
use rand::seq::SliceRandom as _;
use reqwest::StatusCode;

const CLIENTS: usize = 10;
/// Bytes in common that are no chance: dates and small numbers are shorter.
const TELLING: usize = 8;

/// Rows of a dump by table, each value as bytes.
fn tables(dump: &str) -> BTreeMap<String, Vec<Vec<Vec<u8>>>> {
    let mut tables: BTreeMap<String, Vec<Vec<Vec<u8>>>> = BTreeMap::new();
    for row in rows(dump) {
        tables.entry(row.table).or_default().push(row.values);
    }
    tables
}

fn windows<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> HashSet<&'a [u8]> {
    values.into_iter().flat_map(|value| value.windows(TELLING)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tokens_join_no_client_with_what_it_did() {
    let gate = World::builder().servers(2).start().await;
    let key = gate.issuer_key(TokenType::PrivateRistretto255).await;
    let (mut clients, mut requests, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..CLIENTS {
        let client = gate.client(&format!("user-{index:04}")).await;
        let ask = Ask::batch(&key, 100);
        tokens.extend(gate.tokens(index % 2, &client, &ask).await);
        clients.push(client);
        requests.push(ask.body);
    }
    tokens.shuffle(&mut rand::rng());
    for (index, token) in tokens.iter().enumerate() {
        assert_eq!(gate.spend(index % 2, token).await.status, StatusCode::CREATED);
    }
    let dump = tables(&gate.cluster.dump().await);

    // These are the records of the two sides. The issuer's public keys are everyone's, and so is the id of the master
    // key, which whatever is sealed under it begins with.
    let master_key: Vec<u8> = gate.value("SELECT key_id FROM operator.master_key").await;
    let redeemed =
        |table: &str| table.starts_with("aas.spent") || table.starts_with("ds.") || table == "aas.token_use";
    let issued = |table: &str| {
        table.starts_with("auth.")
            || table.starts_with("federation.")
            || ["aas.takers", "aas.issued", "aas.requests", "aas.allowances"].contains(&table)
    };
    let side = |chosen: &dyn Fn(&str) -> bool| -> Vec<&[u8]> {
        let rows = dump.iter().filter(|(table, _)| chosen(table)).flat_map(|(_, rows)| rows);
        let values = rows.flatten().map(Vec::as_slice).filter(|value| !is_date(value));
        values.map(|value| value.strip_prefix(master_key.as_slice()).unwrap_or(value)).collect()
    };
    let (at_issuance, at_redemption) = (side(&issued), side(&redeemed));
    assert_eq!(dump["aas.spent_1"].len(), 1000);
    assert_eq!(dump["aas.requests"].len(), CLIENTS);
    for table in ["aas.issued", "aas.takers", "auth.clients", "auth.users", "ds.reservations"] {
        assert!(dump.get(table).is_some_and(|rows| !rows.is_empty()), "{table} has rows to search");
    }
    assert!(windows(at_issuance.iter().copied()).is_disjoint(&windows(at_redemption.iter().copied())));

    // They share nothing with the messages of the other side, either.
    let seen_at_issuance = windows(requests.iter().map(|request| &request[5..]));
    assert!(seen_at_issuance.is_disjoint(&windows(at_redemption)));
    let nonce_and_authenticator = tokens.iter().flat_map(|token| [&token[2..34], &token[98..]]);
    assert!(windows(nonce_and_authenticator).is_disjoint(&windows(at_issuance)));

    // Times are days, so no order of moments remains on either side.
    let clocks: Option<String> = gate
        .value(
            "SELECT string_agg(c.oid::regclass || '.' || a.attname, ', ')
               FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
              WHERE c.relnamespace = 'aas'::regnamespace AND a.attnum > 0
                AND a.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype, 'time'::regtype)",
        )
        .await;
    assert_eq!(clocks, None);

    // Logs name neither side.
    let names = clients.iter().map(|client| client.public_key().as_bytes().to_vec());
    let nonces = tokens.iter().map(|token| token[2..34].to_vec());
    let telling: Vec<String> = names
        .chain(nonces)
        .flat_map(|bytes| {
            [hex::encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes), STANDARD_NO_PAD.encode(&bytes)]
        })
        .chain((0..CLIENTS).map(|index| format!("user-{index:04}")))
        .collect();
    let logs: String =
        gate.servers.iter().map(postern_tests_kit::Server::log).chain([gate.cluster.log()]).collect();
    assert!(telling.iter().all(|text| !logs.contains(text)));
}
