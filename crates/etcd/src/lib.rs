//! windrow-etcd
