"""One module for each DVC stage, named like the stage: reads its settings, calls the library."""
