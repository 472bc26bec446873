//! windrow-wire
