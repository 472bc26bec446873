//! windrow-gateway
