//! Runs the queries: streaming, on one thread a batch, under a memory limit, spilling to scratch disk.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::StreamExt;
use futures::stream::BoxStream;
use windrow_protocol::JobSpec;

use crate::sql::{PARTS, READINGS, map_schema, plan, session};
use crate::{ProcessingError, parquet, readings_schema};

/// Rows of a batch between operators. Measured: larger than 8,192 gains nothing more.
const BATCH_ROWS: usize = 8_192;

/// How a worker's queries share its machine.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Memory of all queries' sorts, joins and aggregations together, in bytes; beyond it they spill. Default 256 MiB.
    pub memory_bytes: usize,
    /// Folder for spilled data.
    pub scratch: PathBuf,
}

/// A query's output.
pub struct BatchStream {
    pub schema: SchemaRef,
    pub batches: BoxStream<'static, Result<RecordBatch, ProcessingError>>,
}

/// Runs maps and reduces. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    scratch: PathBuf,
    /// One for all queries, so that the number of slots does not multiply the limit.
    memory: Arc<FairSpillPool>,
}

impl Engine {
    pub fn new(settings: EngineSettings) -> Self {
        Self { scratch: settings.scratch, memory: Arc::new(FairSpillPool::new(settings.memory_bytes)) }
    }

    /// Runs a job's map over batches of `readings`, as they come.
    pub async fn map(
        &self,
        spec: &JobSpec,
        input: BoxStream<'static, RecordBatch>,
    ) -> Result<BatchStream, ProcessingError> {
        let schema = readings_schema(spec);
        let source = Once { schema: schema.clone(), input: Mutex::new(Some(input)) };
        self.run(&spec.map, READINGS, schema, Arc::new(source)).await
    }

    /// Runs a job's reduce over the map outputs of a window, as local Parquet files.
    pub async fn reduce(&self, spec: &JobSpec, files: Vec<PathBuf>) -> Result<BatchStream, ProcessingError> {
        let schema = map_schema(spec).await.map_err(|refusal| ProcessingError::Query(refusal.message))?;
        let reduce = spec.reduce.as_deref().unwrap_or("SELECT * FROM parts");
        let source = Files { schema: schema.clone(), files };
        self.run(reduce, PARTS, schema, Arc::new(source)).await
    }

    async fn run(
        &self,
        sql: &str,
        table: &str,
        schema: SchemaRef,
        source: Arc<dyn PartitionStream>,
    ) -> Result<BatchStream, ProcessingError> {
        // The gate again: what is stored may be older than its rules.
        let plan_schema = plan(sql, table, &schema).await.map_err(|refusal| ProcessingError::Query(refusal.message))?;
        let output = Arc::new(plan_schema.schema().as_arrow().clone());
        // The engine makes it too, but of two that make it at once one fails.
        std::fs::create_dir_all(&self.scratch)?;
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(self.memory.clone())
            .with_temp_file_path(&self.scratch)
            .build_arc()?;
        let config = SessionConfig::new().with_target_partitions(1).with_batch_size(BATCH_ROWS);
        let context = SessionContext::new_with_state(session(config).with_runtime_env(runtime).build());
        context.register_table(table, Arc::new(StreamingTable::try_new(schema, vec![source])?))?;
        let query = context.sql(sql).await?;
        let (tasks, physical) = (Arc::new(query.task_ctx()), query.create_physical_plan().await?);
        let stream = execute_stream(can_be_stopped(physical)?, tasks)?;
        let wanted = output.clone();
        let batches = stream.map(move |batch| {
            // Optimising may sharpen nullability; all files of a job have the planned schema.
            RecordBatch::try_new(wanted.clone(), batch?.columns().to_vec())
                .map_err(|e| ProcessingError::Query(e.to_string()))
        });
        Ok(BatchStream { schema: output, batches: batches.boxed() })
    }
}

/// The plan with a pause for whoever wants to stop it behind each operator that can make more rows than it gets. Otherwise
/// only what reads pauses, and a join that makes 10^18 rows of one batch goes on after its attempt was given up. One that
/// compares for long and makes none pauses only between the batches that it gets.
fn can_be_stopped(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    let with_pause = |node: Arc<dyn ExecutionPlan>| {
        let multiplies = node.children().len() > 1 || node.name() == "UnnestExec";
        Ok(if multiplies { Transformed::yes(Arc::new(CooperativeExec::new(node)) as _) } else { Transformed::no(node) })
    };
    Ok(plan.transform_up(with_pause)?.data)
}

/// The input of a map: can be read once.
struct Once {
    schema: SchemaRef,
    input: Mutex<Option<BoxStream<'static, RecordBatch>>>,
}

impl std::fmt::Debug for Once {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Once").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let input = self.input.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let batches = match input {
            Some(input) => input.map(Ok).boxed(),
            None => {
                futures::stream::iter([Err(DataFusionError::Internal("readings were read twice".to_owned()))]).boxed()
            }
        };
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}

/// The input of a reduce: read from disk as often as the query scans it.
#[derive(Debug)]
struct Files {
    schema: SchemaRef,
    files: Vec<PathBuf>,
}

impl PartitionStream for Files {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = self.schema.clone();
        let batches = self.files.clone().into_iter().flat_map(move |path| {
            let schema = schema.clone();
            let batches: Box<dyn Iterator<Item = _> + Send> = match parquet::read(&path) {
                Ok(batches) => {
                    Box::new(batches.map(|batch| batch.map_err(|error| DataFusionError::External(error.into()))))
                }
                Err(error) => Box::new(std::iter::once(Err(DataFusionError::External(error.into())))),
            };
            batches.map(move |batch| Ok(RecordBatch::try_new(schema.clone(), batch?.columns().to_vec())?))
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter(batches)))
    }
}

#[cfg(test)]
mod tests;
