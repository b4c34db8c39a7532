"""What happens over tokens: voids in prompt and response, how the stream drifts over a rationale, when it commits."""
