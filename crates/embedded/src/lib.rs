//! windrow-embedded
