//! Rules of the mesh, as the relay keeps them.
