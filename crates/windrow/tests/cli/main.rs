//! The command line as a person meets it: the real binary against a `windrow dev` of its own, or against none.

mod dev;
mod files;
mod jobs;
mod outcome;
mod retention;
mod revisions;
mod topics;
mod volume;

/// An hourly job over readings with one value.
pub const JOB: &str = "apiVersion: windrow/v1
kind: Job
metadata: {name: fleet}
spec:
  source:
    topic: fleet
    values: {speed: f64}
  window: {every: 1h, timeZone: America/Chicago}
  lateness: 10m
  idleTimeout: 1s
  map: |
    SELECT device, count(*) AS n, sum(speed) AS total
    FROM readings GROUP BY device ORDER BY device
";
