"""From a packaged model to the champion that is served: gate, release records, pointer."""
