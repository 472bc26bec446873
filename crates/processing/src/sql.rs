//! The gate for user SQL: one query, over one table, with nothing that writes, reads files, changes settings, or answers
//! differently when it is run again.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::{ObjectName, Query, Statement as SqlStatement, Visit, Visitor};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use windrow_protocol::JobSpec;
use windrow_protocol::job::Violation;

use crate::readings_schema;

/// The table of a map.
pub const READINGS: &str = "readings";
/// The table of a reduce.
pub const PARTS: &str = "parts";

/// Functions whose answer depends on when or in which session they run.
const NOT_REPEATABLE: [&str; 6] = ["now", "current_date", "current_time", "current_timestamp", "today", "version"];

/// Functions that make a text of any length from a short one, beyond every memory limit.
const UNBOUNDED: [&str; 3] = ["lpad", "rpad", "repeat"];

/// The most words and signs of a query. Planning recurses over expressions, so its depth must be bounded.
const MAX_TOKENS: usize = 2_000;

/// The most tables of a query whose WITH queries are written out wherever they are named, which is what planning does:
/// a few of them that each name the one before twice would fill any memory.
const MAX_TABLES: u64 = 1_000;

/// Why a query is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable code.
    pub reason: &'static str,
    pub message: String,
    /// 1-based line and column in the SQL, if known.
    pub position: Option<(u32, u32)>,
}

fn refusal(reason: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { reason, message: message.into(), position: None }
}

/// A session that has functions but no tables, table functions, files or catalogs of its own.
pub(crate) fn session(config: SessionConfig) -> SessionStateBuilder {
    let config = config.with_information_schema(false);
    SessionStateBuilder::new().with_config(config).with_default_features().with_table_functions(HashMap::new())
}

fn planning_session(table: &str, schema: &SchemaRef) -> Result<SessionState, DataFusionError> {
    let mut config = SessionConfig::new();
    config.options_mut().sql_parser.collect_spans = true;
    let context = SessionContext::new_with_state(session(config).build());
    context.register_table(table, Arc::new(StreamingTable::try_new(schema.clone(), vec![])?))?;
    Ok(context.state())
}

/// Plans a query over a table, or says why it is refused. The result's schema is what its output will have.
pub async fn plan(sql: &str, table: &str, schema: &SchemaRef) -> Result<LogicalPlan, Refusal> {
    let statement = parse(sql)?;
    let state = planning_session(table, schema).map_err(|error| planned(&error))?;
    let plan = state.statement_to_plan(statement).await.map_err(|error| planned(&error))?;
    let scans = check_plan(&plan, table)?;
    if table == READINGS && scans > 1 {
        let message = "the map reads `readings` more than once, but it is a stream that is read once; \
                       aggregate in the map and join in the reduce, or use CASE or FILTER instead of a self-join";
        return Err(refusal("READINGS_READ_TWICE", message));
    }
    // Only analysis settles the types of CASE, UNION and the like; before it they are those of their first branch.
    let options = state.config_options();
    let plan = state.analyzer().execute_and_check(plan, options, |_, _| {}).map_err(|error| planned(&error))?;
    check_output(plan.schema().as_arrow())?;
    Ok(plan)
}

/// Counts before anything recurses.
fn expect_simple(sql: &str) -> Result<(), Refusal> {
    // What is no sequence of tokens is for the parser to explain.
    let tokens = Tokenizer::new(&GenericDialect, sql).tokenize().unwrap_or_default();
    let count = tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))).count();
    if count > MAX_TOKENS {
        let message = format!("the query has {count} words and signs; at most {MAX_TOKENS} are allowed");
        return Err(refusal("TOO_COMPLEX", message));
    }
    // The planner would read everything and say nothing.
    let is_sampled = |token: &Token| matches!(token, Token::Word(word) if word.keyword == Keyword::TABLESAMPLE);
    if tokens.iter().any(is_sampled) {
        return Err(refusal("NOT_REPEATABLE", "TABLESAMPLE is not supported: a batch that is run again would differ"));
    }
    Ok(())
}

fn parse(sql: &str) -> Result<Statement, Refusal> {
    expect_simple(sql)?;
    let mut statements = DFParser::parse_sql(sql).map_err(|error| planned(&error))?;
    let Some(statement) = statements.pop_front() else {
        return Err(refusal("EMPTY_SQL", "expected one SELECT statement"));
    };
    if !statements.is_empty() {
        return Err(refusal(
            "SEVERAL_STATEMENTS",
            "expected one SELECT statement, found several; remove what follows the first ';'",
        ));
    }
    match &statement {
        Statement::Statement(inner) if matches!(**inner, SqlStatement::Query(_)) => {
            expect_few_tables(inner)?;
            Ok(statement)
        }
        _ => Err(refusal(
            "NOT_A_QUERY",
            "only a SELECT statement (with WITH, if needed) is allowed: no DDL, DML, COPY, SET or EXPLAIN",
        )),
    }
}

fn expect_few_tables(statement: &SqlStatement) -> Result<(), Refusal> {
    let mut tables = Tables::default();
    let _ = statement.visit(&mut tables);
    if tables.most > MAX_TABLES {
        let message = format!(
            "the query names more than {MAX_TABLES} tables if its WITH queries are written out wherever they are named"
        );
        return Err(refusal("TOO_COMPLEX", message));
    }
    Ok(())
}

/// Counts the tables of a query with its WITH queries written out.
#[derive(Default)]
struct Tables {
    /// Counts of the queries around the place that is looked at, the innermost last.
    open: Vec<u64>,
    /// The WITH queries' names.
    names: HashMap<*const Query, String>,
    /// Their counts. A name that is given again counts as the largest of its queries.
    counts: HashMap<String, u64>,
    /// The largest count of all.
    most: u64,
}

impl Tables {
    fn add(&mut self, count: u64) {
        if let Some(open) = self.open.last_mut() {
            *open = open.saturating_add(count);
        }
    }
}

impl Visitor for Tables {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for with in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.names.insert(std::ptr::from_ref(&*with.query), with.alias.name.value.to_lowercase());
        }
        self.open.push(0);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let count = self.open.pop().unwrap_or_default();
        self.most = count.max(self.most);
        match self.names.remove(&std::ptr::from_ref(query)) {
            Some(name) => {
                let known = self.counts.entry(name).or_default();
                *known = count.max(*known);
            }
            None => self.add(count),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let name = relation.0.last().and_then(|part| part.as_ident()).map(|ident| ident.value.to_lowercase());
        let count = name.and_then(|name| self.counts.get(&name)).copied().unwrap_or_default();
        self.add(count.saturating_add(1));
        ControlFlow::Continue(())
    }
}

/// Counts the table's scans; refuses every other source and functions that can't be repeated.
fn check_plan(plan: &LogicalPlan, table: &str) -> Result<usize, Refusal> {
    let (mut scans, mut refused) = (0, None);
    let walked = plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::TableScan(scan) if scan.table_name.table() == table => scans += 1,
            LogicalPlan::TableScan(scan) => {
                refused = Some(refusal(
                    "UNKNOWN_TABLE",
                    format!("table {} is not there; only `{table}` is", scan.table_name),
                ));
            }
            LogicalPlan::Ddl(_) | LogicalPlan::Dml(_) | LogicalPlan::Copy(_) | LogicalPlan::Statement(_) => {
                refused = Some(refusal("NOT_A_QUERY", "a query can't change anything"));
            }
            _ => {}
        }
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                if let Expr::Placeholder(placeholder) = part {
                    let message = format!("{} stands for a value that nobody gives; write the value", placeholder.id);
                    refused = Some(refusal("PLACEHOLDER", message));
                }
                if let Expr::ScalarFunction(call) = part {
                    let volatile = call.func.signature().volatility == Volatility::Volatile;
                    if volatile || NOT_REPEATABLE.contains(&call.name()) {
                        let message = format!(
                            "{}() answers differently when a batch is run again; results must not depend on that",
                            call.name()
                        );
                        refused = Some(refusal("NOT_REPEATABLE", message));
                    }
                    if UNBOUNDED.contains(&call.name()) {
                        let message =
                            format!("{}() can make more text than any memory holds; it is not allowed", call.name());
                        refused = Some(refusal("FUNCTION_NOT_ALLOWED", message));
                    }
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    walked.map_err(|error| planned(&error))?;
    refused.map_or(Ok(scans), Err)
}

fn check_output(schema: &Schema) -> Result<(), Refusal> {
    for (i, field) in schema.fields().iter().enumerate() {
        if field.name().is_empty() {
            return Err(refusal("INVALID_COLUMN", "a column of the output has no name; give it one with AS"));
        }
        if field.name().eq_ignore_ascii_case("window") {
            let message = "a column of the output is called \"window\": readers of the folders `window=...` would take \
                           the folder's name for it; call it something else with AS";
            return Err(refusal("RESERVED_COLUMN", message));
        }
        if schema.fields()[..i].iter().any(|before| before.name() == field.name()) {
            let message = format!("column {:?} is in the output twice; name one of them with AS", field.name());
            return Err(refusal("DUPLICATE_COLUMN", message));
        }
        if field.data_type().is_null() {
            let message = format!("column {:?} is always NULL, which has no type; CAST it", field.name());
            return Err(refusal("UNTYPED_COLUMN", message));
        }
        if matches!(field.data_type(), DataType::Interval(_) | DataType::Duration(_)) {
            let message = format!(
                "column {:?} is an interval, which Parquet files can't hold; give its length as a number, e.g. \
                 extract(epoch FROM ...)",
                field.name()
            );
            return Err(refusal("UNSUPPORTED_TYPE", message));
        }
    }
    Ok(())
}

/// An error of parser or planner, with its position where one is known.
fn planned(error: &DataFusionError) -> Refusal {
    let position = error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| {
        (u32::try_from(span.start.line).unwrap_or(u32::MAX), u32::try_from(span.start.column).unwrap_or(u32::MAX))
    });
    let root = error.find_root();
    let (reason, message) = match root {
        DataFusionError::SQL(error, _) => match &**error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => ("SQL_SYNTAX", text.clone()),
            ParserError::RecursionLimitExceeded => ("SQL_SYNTAX", "the SQL is nested too deeply".to_owned()),
        },
        DataFusionError::SchemaError(..) => ("UNKNOWN_COLUMN", root.strip_backtrace()),
        // Names within the engine mean nothing to people.
        _ => ("SQL_INVALID", root.strip_backtrace().replace("datafusion.public.", "")),
    };
    // The parser says where it stopped in its text alone; the position is given beside the message, not in it.
    match position_in(&message) {
        Some(stopped) => {
            let text = message.rsplit_once(" at Line: ").map_or(message.as_str(), |(text, _)| text);
            Refusal { reason, message: text.to_owned(), position: Some(stopped) }
        }
        None => Refusal { reason, message, position },
    }
}

/// The parser's errors end with `at Line: 1, Column: 8`.
fn position_in(message: &str) -> Option<(u32, u32)> {
    let (_, rest) = message.rsplit_once("Line: ")?;
    let (line, rest) = rest.split_once(", Column: ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((line.parse().ok()?, digits.parse().ok()?))
}

/// The schema of a map's output.
pub async fn map_schema(spec: &JobSpec) -> Result<SchemaRef, Refusal> {
    let plan = plan(&spec.map, READINGS, &readings_schema(spec)).await?;
    Ok(Arc::new(plan.schema().as_arrow().clone()))
}

/// The schema of a reduce's output; of the map's, for a job without a reduce.
pub async fn reduce_schema(spec: &JobSpec) -> Result<SchemaRef, Refusal> {
    let parts = map_schema(spec).await?;
    let Some(reduce) = &spec.reduce else { return Ok(parts) };
    let plan = plan(reduce, PARTS, &parts).await?;
    Ok(Arc::new(plan.schema().as_arrow().clone()))
}

/// Plans map and reduce; what is wrong with them, by path.
pub async fn validate(spec: &JobSpec) -> Vec<Violation> {
    let violation = |path: &str, refusal: Refusal| Violation {
        position: refusal.position,
        ..Violation::new(path, refusal.reason, refusal.message)
    };
    let parts = match map_schema(spec).await {
        Ok(schema) => schema,
        Err(refusal) => return vec![violation("spec.map", refusal)],
    };
    match &spec.reduce {
        Some(reduce) => plan(reduce, PARTS, &parts)
            .await
            .err()
            .map(|refusal| violation("spec.reduce", refusal))
            .into_iter()
            .collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
