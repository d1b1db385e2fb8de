"""The adapter to Apache Kafka; the only place that imports aiokafka."""
