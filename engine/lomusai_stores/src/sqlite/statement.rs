//! Writes of a step's own, in the transaction that records its answer: so what it does to this file happens exactly once.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lomusai_core::Error;
use lomusai_core::component::CallContext;
use lomusai_wire::{SqlStatement, codes};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::Value as Stored;
use rusqlite::{Connection, ErrorCode, params_from_iter};
use serde_json::Value;

use super::fault::Fault;

/// Why work of a step failed: an error of SQLite's, or one of the step's own.
pub type WorkError = Box<dyn std::error::Error + Send + Sync>;

/// What a step in Rust does in the transaction that records its answer.
pub(super) struct Work(Box<Closure>);

type Closure = dyn Fn(&Connection) -> Result<(), WorkError> + Send + Sync;

/// Has the store do this in the transaction that records the step's answer: all of it happens, or nothing. For steps of a workflow whose
/// run is kept in a [`SqliteStore`](super::SqliteStore).
///
/// It may be called again where a transaction fails, and holds up all other writing meanwhile. It can use any table but the store's own, and
/// cannot end the transaction. Where it fails, the step has failed with `step_sql_failed`.
///
/// # Example
/// ```
/// use lomusai_core::component::{CallContext, FnStep};
/// use lomusai_stores::sqlite::in_transaction;
/// use lomusai_wire::StepReply;
///
/// let book = FnStep(|context: CallContext, input: serde_json::Value| async move {
///     let order = input["order"].as_str().unwrap_or_default().to_owned();
///     in_transaction(&context, move |conn| {
///         conn.execute("INSERT INTO bookings (order_id) VALUES (?1)", [&order])?;
///         Ok(())
///     });
///     Ok::<_, lomusai_core::Error>(StepReply::output("booked"))
/// });
/// ```
pub fn in_transaction(
    context: &CallContext,
    work: impl Fn(&Connection) -> Result<(), WorkError> + Send + Sync + 'static,
) {
    context.work.add(&context.effect_id, std::sync::Arc::new(Work(Box::new(work))));
}

thread_local! {
    /// Whether the statements that are being prepared are a step's.
    static GUEST: Cell<bool> = const { Cell::new(false) };
}

/// The store's own tables.
const OWN: [&str; 8] = ["runs", "events", "packed", "threads", "messages", "key_values", "blobs", "owners"];

/// Keeps the store's own tables, and its transactions, to itself. Asked once for each statement, when it is prepared.
pub(super) fn guard(conn: &Connection) -> rusqlite::Result<()> {
    conn.authorizer(Some(
        |context: AuthContext<'_>| {
            if GUEST.get() && !may(&context.action) { Authorization::Deny } else { Authorization::Allow }
        },
    ))
}

fn may(action: &AuthAction<'_>) -> bool {
    let own = |name: &str| OWN.iter().any(|own| own.eq_ignore_ascii_case(name));
    match action {
        AuthAction::Read { table_name, .. }
        | AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::CreateIndex { table_name, .. }
        | AuthAction::DropIndex { table_name, .. }
        | AuthAction::CreateTrigger { table_name, .. }
        | AuthAction::CreateTable { table_name } => !own(table_name),
        AuthAction::Pragma { .. }
        | AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::Transaction { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::Unknown { .. } => false,
        _ => true,
    }
}

/// While it lives, statements are a step's.
struct Guest;

impl Guest {
    fn enter() -> Self {
        GUEST.set(true);
        Self
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        GUEST.set(false);
    }
}

/// Carries out a step's statements.
pub(super) fn write(conn: &Connection, statements: &[SqlStatement]) -> Result<(), Fault> {
    let _guest = Guest::enter();
    for statement in statements {
        let changed = execute(conn, statement).map_err(|error| refused(error, &statement.sql))?;
        if let Some(rows) = statement.rows.filter(|rows| *rows != changed) {
            let message = format!(
                "`{}` changed {changed} rows, and must change {rows}: nothing was written",
                short(&statement.sql)
            );
            return Err(Error::new(codes::STEP_SQL_FAILED, message).with("rows", changed).into());
        }
    }
    Ok(())
}

fn execute(conn: &Connection, statement: &SqlStatement) -> rusqlite::Result<u64> {
    // Not from the cache: what is in there was prepared as the store's own.
    let mut prepared = conn.prepare(&statement.sql)?;
    let params = params_from_iter(statement.params.iter().map(stored));
    if prepared.column_count() == 0 {
        return prepared.execute(params).map(|rows| rows as u64);
    }
    let mut rows = prepared.query(params)?;
    let mut read = 0;
    while rows.next()?.is_some() {
        read += 1;
    }
    Ok(read)
}

fn stored(value: &Value) -> Stored {
    match value {
        Value::Null => Stored::Null,
        Value::Bool(yes) => Stored::Integer((*yes).into()),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Stored::Integer(whole),
            (None, real) => Stored::Real(real.unwrap_or_default()),
        },
        Value::String(text) => Stored::Text(text.clone()),
        other => Stored::Text(other.to_string()),
    }
}

impl Work {
    pub(super) fn write(&self, conn: &Connection) -> Result<(), Fault> {
        let _guest = Guest::enter();
        // A panic here would take the thread that writes along.
        let failed = match catch_unwind(AssertUnwindSafe(|| (self.0)(conn))) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => "it panicked".into(),
        };
        match failed.downcast::<rusqlite::Error>() {
            Ok(error) => Err(refused(*error, "work of a step")),
            Err(error) => {
                let message = format!("the step's work in the transaction failed: {error}. Nothing was written");
                Err(Error::new(codes::STEP_SQL_FAILED, message).into())
            }
        }
    }
}

/// What is wrong with the statement is the step's failure; what is wrong with the file is the store's.
fn refused(error: rusqlite::Error, sql: &str) -> Fault {
    let store_s = matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
        )
    );
    if store_s {
        return Fault::Sqlite(error);
    }
    let way = match error.sqlite_error_code() {
        Some(ErrorCode::AuthorizationForStatementDenied) => {
            ": a step cannot use the store's own tables, PRAGMA, ATTACH, or end the transaction"
        }
        _ => "",
    };
    let message = format!("`{}` failed: {error}{way}. Nothing was written", short(sql));
    Fault::Refused(Error::new(codes::STEP_SQL_FAILED, message))
}

fn short(sql: &str) -> String {
    let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= 120 { line } else { line.chars().take(119).chain(['…']).collect() }
}
