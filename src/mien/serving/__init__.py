"""The BentoML service: pictures in, expressions out."""
