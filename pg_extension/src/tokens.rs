//! The gate in the database (AAS-4, AAS-5): a nonce is written once per issuer key, in the
//! transaction that the token pays for, so both happen or neither does; unless the price list
//! says that the endpoint is free. Which token was valid is for the server to say.

use std::{
    cell::RefCell,
    ffi::{CStr, CString},
};

use pgrx::prelude::*;

use crate::plan::Plan;

/// The price list and the spent tokens in one statement, whose result is its number of rows.
/// A nonce that another transaction is just writing makes this one wait for its outcome,
/// which is what serialises two servers that were handed the same token.
const SPEND: &str = "
    INSERT INTO aas.spent (issuer_key, nonce)
    SELECT $2, $3
      FROM aas.prices p
     WHERE p.endpoint OPERATOR(pg_catalog.=) $1 AND p.price OPERATOR(pg_catalog.=) 1
    ON CONFLICT DO NOTHING";

/// Why nothing was written: the endpoint is free, or the token was spent.
const EXPLAIN: &str = "
    SELECT p.price OPERATOR(pg_catalog.=) 0,
           EXISTS (SELECT FROM aas.spent s
                    WHERE s.issuer_key OPERATOR(pg_catalog.=) $2 AND s.nonce OPERATOR(pg_catalog.=) $3)
      FROM aas.prices p
     WHERE p.endpoint OPERATOR(pg_catalog.=) $1";

struct Statements {
    spend: Plan,
    explain: Plan,
}

thread_local! {
    /// A plan is thrown away when the search_path is another one than it was made under, and
    /// each service's functions set their own: so there is one of each for each of them. (A
    /// SET clause on the function would do as well, at a fifth of the check's cost.)
    static BY_SEARCH_PATH: RefCell<Vec<(CString, &'static Statements)>> = const { RefCell::new(Vec::new()) };
}

/// True when the token was unspent, and is spent from now on; or when the endpoint is free.
#[pg_extern]
fn spend_token(endpoint: Option<&str>, issuer_key: Option<i16>, nonce: Option<&[u8]>) -> spi::Result<bool> {
    // Not STRICT: null is not true, but it is not false either, and would open the gate.
    let (Some(endpoint), Some(issuer_key), Some(nonce)) = (endpoint, issuer_key, nonce) else {
        ereport!(ERROR, PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "a token to spend is not null");
    };
    let arguments = [endpoint.into(), issuer_key.into(), nonce.into()];
    let statements = statements();
    Spi::connect_mut(|client| {
        loop {
            if statements.spend.run(client, &arguments)?.len() == 1 {
                return Ok(true);
            }
            let why = statements.explain.run(client, &arguments)?;
            if why.is_empty() {
                ereport!(
                    ERROR,
                    PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                    format!("{endpoint} is not in the price list")
                );
            }
            let why = why.first();
            if why.get(1)?.unwrap_or(false) {
                return Ok(true);
            }
            if why.get(2)?.unwrap_or(true) {
                return Ok(false);
            }
            // Its price was raised between the two statements.
        }
    })
}

fn statements() -> &'static Statements {
    // SAFETY: a setting that PostgreSQL gives a value before anything runs, always a C string.
    let search_path = unsafe { CStr::from_ptr(pg_sys::namespace_search_path) };
    BY_SEARCH_PATH.with_borrow_mut(|known| {
        if let Some((_, statements)) = known.iter().find(|(path, _)| path.as_c_str() == search_path) {
            return *statements;
        }
        let statements = Statements { spend: Plan::new(SPEND), explain: Plan::new(EXPLAIN) };
        // As long as the backend lives, as its plans do.
        let statements: &'static Statements = Box::leak(Box::new(statements));
        known.push((search_path.to_owned(), statements));
        statements
    })
}
