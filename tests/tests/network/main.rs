//! Suites of links between peers, most of them in network namespaces with routers, firewalls and slow lines of their own.

mod faults_netns;
mod links;
mod mesh;
mod mesh_netns;
mod netns;
mod nodes_netns;
