//! windrow-storage
