"""What a call was for and where its time went, for those who look into it later; `otlp` alone knows OpenTelemetry."""
