//! windrow-processing
