//! `ClusterService`.

use tonic::{Request, Response, Status};
use windrow_wire::v1;
use windrow_wire::v1::cluster_service_server::ClusterService;

use super::Api;

#[tonic::async_trait]
impl ClusterService for Api {
    async fn get_cluster(&self, _: Request<v1::GetClusterRequest>) -> Result<Response<v1::GetClusterResponse>, Status> {
        Ok(Response::new(v1::GetClusterResponse { cluster: Some(self.cluster.clone()) }))
    }
}
