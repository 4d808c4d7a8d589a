//! The files of `sql/`, applied as a whole: functions as their owner, their explanations from the files' headers, and
//! grants. Functions that no file defines any more are dropped. The policy of registration comes with them.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use tokio_postgres::{Client, Transaction};

use super::{RegistrationChoice, SCHEMAS, error::located};
use crate::database::release::{Release, place};

/// A function in one of our schemas.
#[derive(PartialEq, Eq)]
struct Function {
    /// `schema.name`
    name: String,
    /// The name with the types of its parameters.
    signature: String,
}

/// The changes of [`Release::apply_functions`].
pub(super) struct Applied {
    pub functions_changed: bool,
    pub registration_set: bool,
}

impl Release {
    /// Applies `sql/` as a whole, unless it is there already: in one transaction, so that servers see all functions of one
    /// release, and find the policy of registration that was chosen.
    pub(super) async fn apply_functions(
        &self,
        client: &mut Client,
        migrated: bool,
        registration: Option<RegistrationChoice>,
    ) -> anyhow::Result<Applied> {
        let transaction = client.transaction().await?;
        let (migration, hash) = self.state();
        let (release, previous) =
            (self.version().to_string(), self.previous().map(|previous| previous.to_string()));
        let found = transaction
            .query_opt("SELECT migration, functions_hash, release FROM operator.schema_state", &[])
            .await?;
        // The migrations of an earlier run may be there that came no further.
        let unchanged = found.is_some_and(|row| {
            row.get::<_, i32>(0) >= migration
                && row.get::<_, &[u8]>(1) == hash
                && row.get::<_, &str>(2) == release
        });
        if unchanged && !migrated {
            let registration_set = set_registration(&transaction, registration).await?;
            transaction.commit().await?;
            return Ok(Applied { functions_changed: false, registration_set });
        }

        transaction
            .batch_execute("SET LOCAL ROLE postern_owner; SET LOCAL check_function_bodies = off")
            .await?;
        // First, so that it is known which ones they are.
        apply_files(&transaction, self.functions(true)).await?;
        let of_previous = applied_functions(&transaction).await?;
        apply_files(&transaction, self.functions(false)).await?;
        // Applied once more: now that all functions exist, each body is checked against the others.
        transaction.batch_execute("SET LOCAL check_function_bodies = on").await?;
        apply_files(&transaction, self.functions(true).chain(self.functions(false))).await?;
        drop_obsolete(&transaction).await?;
        let mut applied = applied_functions(&transaction).await?;
        applied.retain(|function| !of_previous.contains(function));
        let comments = self.comments(&of_previous, &applied)?;
        transaction.batch_execute(&comments.join(";")).await.context("cannot comment on functions")?;
        transaction
            .batch_execute(&format!(
                "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {}
                     FROM PUBLIC, postern_server, postern_operator, postern_monitor, postern_backup;
                 REVOKE ALL ON ALL FUNCTIONS IN SCHEMA postern
                     FROM postern_server, postern_operator, postern_monitor, postern_backup",
                SCHEMAS.join(", ")
            ))
            .await?;
        let all: Vec<&Function> = of_previous.iter().chain(&applied).collect();
        for (path, text) in self.grants() {
            let text = grants_for_all(text, &all);
            transaction.batch_execute(&text).await.map_err(|error| located(path, &text, &error))?;
        }
        transaction
            .execute(
                "INSERT INTO operator.schema_state (migration, functions_hash, release, previous, applied)
                     VALUES ($1, $2, $3, $4, (now() AT TIME ZONE 'UTC')::date)
                 ON CONFLICT (singleton) DO UPDATE
                     SET (migration, functions_hash, release, previous, applied)
                       = ROW(excluded.migration, excluded.functions_hash, excluded.release, excluded.previous,
                             excluded.applied)",
                &[&migration, &hash, &release, &previous],
            )
            .await?;
        let registration_set = set_registration(&transaction, registration).await?;
        transaction.commit().await?;
        Ok(Applied { functions_changed: true, registration_set })
    }

    /// The statements by which files' headers explain their functions in `\df+`.
    fn comments(&self, of_previous: &[Function], applied: &[Function]) -> anyhow::Result<Vec<String>> {
        let mut comments = Vec::new();
        for (files, functions, kept) in [
            (self.functions(true).collect::<Vec<_>>(), of_previous, true),
            (self.functions(false).collect(), applied, false),
        ] {
            for (path, text) in files {
                let Some(name) = function_name(path) else { continue };
                let mut defined = functions.iter().filter(|function| function.name == name);
                let (Some(function), None) = (defined.next(), defined.next()) else {
                    bail!(
                        "{path} has to define one function {name}, and no other file the same one: a file of sql/previous \
                         goes when sql/ has its signature"
                    );
                };
                comments.push(comment(function, &explanation(&name, text), kept));
            }
        }
        Ok(comments)
    }
}

/// Sets who can register, unless the policy is for a new database and a server has used this one. Returns whether it did.
async fn set_registration(
    transaction: &Transaction<'_>,
    registration: Option<RegistrationChoice>,
) -> anyhow::Result<bool> {
    let Some(RegistrationChoice { policy, only_for_new }) = registration else { return Ok(false) };
    let sql = "SELECT operator.set_registration_policy($1)
                WHERE NOT $2::boolean OR operator.current_home_domain() IS NULL";
    let rows = transaction
        .execute(sql, &[&policy, &only_for_new])
        .await
        .context("cannot set the policy of registration")?;
    Ok(rows > 0)
}

async fn apply_files(
    transaction: &Transaction<'_>,
    files: impl Iterator<Item = (&str, &str)>,
) -> anyhow::Result<()> {
    for (path, text) in files {
        transaction.batch_execute(text).await.map_err(|error| located(path, text, &error))?;
    }
    Ok(())
}

/// The functions in our schemas that a transaction defined.
async fn applied_functions(transaction: &Transaction<'_>) -> anyhow::Result<Vec<Function>> {
    let rows = transaction
        .query(
            "SELECT n.nspname || '.' || p.proname, p.oid::regprocedure::text
               FROM pg_proc p
               JOIN pg_namespace n ON n.oid = p.pronamespace
              WHERE n.nspname = ANY ($1::text[]) AND p.xmin = pg_current_xact_id()::xid
              ORDER BY 1, 2",
            &[&SCHEMAS.as_slice()],
        )
        .await?;
    Ok(rows.iter().map(|row| Function { name: row.get(0), signature: row.get(1) }).collect())
}

/// The grants, with all signatures in the place of a name that several functions have: the ones of the release before
/// are for the same roles.
fn grants_for_all(text: &str, functions: &[&Function]) -> String {
    let mut signatures: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for function in functions {
        signatures.entry(&function.name).or_default().push(&function.signature);
    }
    let several = signatures.into_iter().filter(|(_, signatures)| signatures.len() > 1);
    several.fold(text.to_owned(), |text, (name, signatures)| {
        text.replace(&format!("ON FUNCTION {name} TO"), &format!("ON FUNCTION {} TO", signatures.join(", ")))
    })
}

/// The function that a file defines: `schema.name`; none for a file that defines none.
fn function_name(path: &str) -> Option<String> {
    let (schema, name) = place(path).strip_suffix(".sql")?.split_once('/')?;
    Some(format!("{schema}.{name}"))
}

/// A file's header, without the name of the function that it explains.
fn explanation(name: &str, text: &str) -> String {
    let header = header(text);
    let explanation = header.strip_prefix(&format!("{name}: ")).unwrap_or(&header);
    let mut letters = explanation.chars();
    let capital: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{capital}{}", letters.as_str())
}

/// The statement by which `\df+` explains a function; `kept` is one that only the release before has.
fn comment(function: &Function, explanation: &str, kept: bool) -> String {
    let kept = if kept { "Kept for the release before. " } else { "" };
    let text = format!("{kept}{explanation}").replace('\'', "''");
    format!("COMMENT ON FUNCTION {} IS '{text}'", function.signature)
}

/// The text of the comment that a file begins with, each paragraph in one line. A line that is indented by two spaces
/// begins an item of a list, which has a line of its own.
fn header(text: &str) -> String {
    let mut header = String::new();
    for line in text.lines().map_while(|line| line.strip_prefix("--")) {
        let line = line.strip_prefix(' ').unwrap_or(line);
        let separator = match line {
            "" => "\n\n",
            _ if header.is_empty() || header.ends_with('\n') => "",
            _ if line.starts_with("  ") && !line.starts_with("   ") => "\n",
            _ => " ",
        };
        header.push_str(separator);
        header.push_str(line.trim());
    }
    header
}

/// Drops functions that no file defines any more, except those that a table, trigger or type still uses: they belong
/// to migrations.
async fn drop_obsolete(transaction: &Transaction<'_>) -> anyhow::Result<()> {
    let functions: Option<String> = transaction
        .query_one(
            "SELECT string_agg(p.oid::regprocedure::text, ', ')
               FROM pg_proc p
              WHERE p.pronamespace IN (SELECT oid FROM pg_namespace WHERE nspname = ANY ($1::text[]))
                AND p.xmin <> pg_current_xact_id()::xid
                AND NOT EXISTS (SELECT FROM pg_depend d
                                 WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid
                                   AND d.classid <> 'pg_proc'::regclass)",
            &[&SCHEMAS.as_slice()],
        )
        .await?
        .get(0);
    if let Some(functions) = functions {
        transaction
            .batch_execute(&format!("DROP ROUTINE {functions}"))
            .await
            .with_context(|| format!("cannot drop functions that sql/ no longer defines: {functions}"))?;
    }
    Ok(())
}
