//! windrow-kafka
