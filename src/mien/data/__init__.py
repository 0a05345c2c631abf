"""Where faces come from: sources, the manifest, the packed store, augmentation."""
