//! Parquet as results are written: zstd 1, delta encoding for integers and times, dictionaries for strings, and for floats
//! as long as they have few distinct values: sensors measure in steps. Compression is what writing costs; a float column of
//! 1,000 steps takes a third of the time with a dictionary, one without steps loses nothing (it is noticed early).

use std::fs::File;
use std::path::{Path, PathBuf};

use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use ::parquet::basic::{Compression, Encoding, ZstdLevel};
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::schema::types::ColumnPath;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::ProcessingError;

/// Encoded bytes after which a row group is closed: what an open file keeps in memory. Narrow rows reach the writer's
/// limit of 1,048,576 rows first.
const ROW_GROUP_BYTES: usize = 16 * 1024 * 1024;

/// Dictionary of a float column before it is given up: 4,096 values.
const FLOAT_DICTIONARY_BYTES: usize = 32 * 1024;

/// Size at which a file is closed and the next one begun.
pub const FILE_BYTES: u64 = 512 * 1024 * 1024;

/// A closed file on scratch disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenFile {
    pub path: PathBuf,
    pub rows: u64,
}

/// Writes batches of one schema into files `<folder>/<name>-<nnn>.parquet`. Without rows there is no file, and no folder
/// is made.
pub struct Writer {
    folder: PathBuf,
    name: String,
    schema: SchemaRef,
    properties: WriterProperties,
    open: Option<(PathBuf, ArrowWriter<File>, u64)>,
    written: Vec<WrittenFile>,
    file_bytes: u64,
}

impl Writer {
    pub fn new(folder: &Path, name: &str, schema: SchemaRef, file_bytes: u64) -> Self {
        let properties = properties(&schema);
        Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            schema,
            properties,
            open: None,
            written: vec![],
            file_bytes,
        }
    }

    /// Adds a batch. Blocks on disk.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ProcessingError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if self.open.is_none() {
            let path = self.folder.join(format!("{}-{:03}.parquet", self.name, self.written.len()));
            std::fs::create_dir_all(&self.folder)?;
            let file = File::create(&path)?;
            let writer = ArrowWriter::try_new(file, self.schema.clone(), Some(self.properties.clone()))?;
            self.open = Some((path, writer, 0));
        }
        if let Some((_, writer, rows)) = &mut self.open {
            writer.write(batch)?;
            *rows += batch.num_rows() as u64;
            if writer.in_progress_size() >= ROW_GROUP_BYTES {
                writer.flush()?;
            }
            if writer.bytes_written() as u64 >= self.file_bytes {
                self.close()?;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), ProcessingError> {
        if let Some((path, writer, rows)) = self.open.take() {
            writer.close()?;
            self.written.push(WrittenFile { path, rows });
        }
        Ok(())
    }

    /// Closes the last file; all files in order.
    pub fn finish(mut self) -> Result<Vec<WrittenFile>, ProcessingError> {
        self.close()?;
        Ok(self.written)
    }
}

fn properties(schema: &SchemaRef) -> WriterProperties {
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Chunk);
    for field in schema.fields() {
        let column = ColumnPath::from(field.name().as_str());
        builder = match field.data_type() {
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => {
                builder.set_column_dictionary_enabled(column, true)
            }
            DataType::Float64 => builder
                .set_column_dictionary_enabled(column.clone(), true)
                .set_column_dictionary_page_size_limit(column, FLOAT_DICTIONARY_BYTES),
            DataType::Int64 | DataType::Int32 | DataType::UInt64 | DataType::UInt32 | DataType::Timestamp(..) => {
                builder.set_column_encoding(column, Encoding::DELTA_BINARY_PACKED)
            }
            _ => builder,
        };
    }
    builder.build()
}

/// Writes a file of this schema without rows: it takes the place of one whose rows are gone.
pub fn without_rows(path: &Path, schema: &SchemaRef) -> Result<(), ProcessingError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    ArrowWriter::try_new(File::create(path)?, schema.clone(), Some(properties(schema)))?.close()?;
    Ok(())
}

/// The batches of a local file.
pub fn read(path: &Path) -> Result<ParquetRecordBatchReader, ProcessingError> {
    let file = File::open(path)?;
    Ok(ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(8_192).build()?)
}
