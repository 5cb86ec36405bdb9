//! Links in browsers: connections on the page's thread, channels in the Worker.
