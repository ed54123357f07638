package upload

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// partsAtATime is how many parts are sent at a time. One connection is often slower
// than the network.
const partsAtATime = 4

// abortPatience is how long it may take to remove the parts after an error.
const abortPatience = 30 * time.Second

// putParts is putWhole by several requests. The object appears when the last one
// succeeds. After an error, also an interruption, the parts are removed, which would be
// billed otherwise.
func (s s3Object) putParts(ctx context.Context, f *os.File, size int64, sent func(int64), absent *string) error {
	created, err := s.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket:            s.place.Bucket(),
		Key:               s.place.Key(),
		ChecksumAlgorithm: types.ChecksumAlgorithmSha256,
	})
	if err != nil {
		return s.error(err)
	}
	parts, err := s.sendParts(ctx, created.UploadId, f, size, sent)
	if err == nil {
		_, err = s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket:          s.place.Bucket(),
			Key:             s.place.Key(),
			UploadId:        created.UploadId,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
			IfNoneMatch:     absent,
		})
	}
	if err == nil {
		return nil
	}
	err = s.error(err)
	// The context may be cancelled.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortPatience)
	defer cancel()
	_, aborted := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
		Bucket:   s.place.Bucket(),
		Key:      s.place.Key(),
		UploadId: created.UploadId,
	})
	switch {
	case status(aborted) == http.StatusNotFound:
		// The upload was completed, but the answer was lost, or another one has
		// made the object meanwhile.
		if _, exists := s.size(ctx); exists == nil {
			return errExists
		}
	case aborted != nil:
		return fmt.Errorf("%w: %w: abort the multipart upload %s of this key: %w", err, errLeft, *created.UploadId, s.place.Error(aborted))
	}
	return err
}

// sendParts sends the parts of a multipart upload.
func (s s3Object) sendParts(ctx context.Context, id *string, f *os.File, size int64, sent func(int64)) ([]types.CompletedPart, error) {
	each := max(partSize, (size+maxParts-1)/maxParts)
	parts := make([]types.CompletedPart, (size+each-1)/each)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	todo := make(chan int)
	var sending sync.WaitGroup
	for range partsAtATime {
		sending.Go(func() {
			for i := range todo {
				offset := int64(i) * each
				length := min(each, size-offset)
				part, err := s.sendPart(ctx, id, int32(i+1), io.NewSectionReader(f, offset, length))
				if err != nil {
					cancel(err)
					continue
				}
				parts[i] = part
				sent(length)
			}
		})
	}
	for i := 0; i < len(parts) && ctx.Err() == nil; i++ {
		select {
		case todo <- i:
		case <-ctx.Done():
		}
	}
	close(todo)
	sending.Wait()
	return parts, context.Cause(ctx)
}

func (s s3Object) sendPart(ctx context.Context, id *string, number int32, part *io.SectionReader) (types.CompletedPart, error) {
	sum, err := base64Sum(part)
	if err != nil {
		return types.CompletedPart{}, err
	}
	if _, err := part.Seek(0, io.SeekStart); err != nil {
		return types.CompletedPart{}, err
	}
	size := part.Size()
	out, err := s.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket:         s.place.Bucket(),
		Key:            s.place.Key(),
		UploadId:       id,
		PartNumber:     &number,
		Body:           part,
		ContentLength:  &size,
		ChecksumSHA256: sum,
	})
	if err != nil {
		return types.CompletedPart{}, fmt.Errorf("part %d: %w", number, err)
	}
	return types.CompletedPart{ETag: out.ETag, PartNumber: &number, ChecksumSHA256: sum}, nil
}
