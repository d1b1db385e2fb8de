"""Where records come from and go to: the protocols in base, and one adapter each for Kafka and for memory."""
